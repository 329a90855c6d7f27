"""What a look at one part of an installation means: ok, warn or fail, with what was found and what to do about it.

Pure: what was seen comes in, findings come out. A finding that is not ok names its cure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from launch.core import coming
from launch.core.quantity import show_cpu, show_duration, show_memory
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, QueueSpec, StaticProvider
from launch.scaling import ScalingReport

CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 60.0
"""AWS refuses requests from a clock that is five minutes off; times in lists are wrong long before."""
DISK_WARN_BYTES, DISK_FAIL_BYTES = 10 * 1024**3, 1024**3
NAMED_AT_MOST = 5
SET_CLOCKS = "set them by NTP, such as with chrony or systemd-timesyncd"


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's: of which check, how bad, what was found, and the cure (None: nothing to do)."""

    check: str
    level: Level
    found: str
    cure: str | None = None


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, cure: str) -> Finding:
    """It works, or may; somebody should look."""
    return Finding(check, Level.WARN, found, cure)


def fail(check: str, found: str, cure: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.FAIL, found, cure)


def worst(findings: Sequence[Finding]) -> Level:
    """Of them all."""
    return max((finding.level for finding in findings), key=tuple(Level).index, default=Level.OK)


def nats_version(found: tuple[int, int, int], least: tuple[int, int]) -> Finding:
    """Whether the server can do what is needed of it."""
    text = f"nats-server {'.'.join(map(str, found))}"
    if found[:2] >= least:
        return ok("version", text)
    needed = ".".join(map(str, least))
    return fail("version", f"{text}; {needed} or newer is needed", f"upgrade it to {needed} or newer")


def clocks(ahead_s: float | None) -> Finding:
    """`ahead_s`: how far our clock is before the server's; None if the server does not tell."""
    if ahead_s is None:
        return warn("clocks", "the server does not tell this user its time", "compare them: date -u, on both")
    off_s = abs(ahead_s)
    if off_s < CLOCK_WARN_S:
        return ok("clocks", f"this machine's and the server's differ by {off_s:.1f} s")
    return Finding("clocks", _clock_level(off_s), f"this machine's clock is {_off(ahead_s)} the server's", SET_CLOCKS)


def agent_clocks(queue: str, ahead_s: Mapping[str, float], ours_ahead_s: float | None) -> list[Finding]:
    """Agents whose clocks are not the server's, the worst first; nothing where none tells.

    `ahead_s`: by agent, how far its clock is before the server's; `ours_ahead_s` the same of this machine.
    """
    if not ahead_s:
        return []
    off = sorted((name for name in ahead_s if abs(ahead_s[name]) >= CLOCK_WARN_S), key=lambda name: -abs(ahead_s[name]))
    if not off:
        most = max(map(abs, ahead_s.values()))
        text = f"{queue}: those of {_counted(len(ahead_s), 'agent')} and the server's differ by {most:.1f} s"
        return [ok("clocks", text + (" at most" if len(ahead_s) > 1 else ""))]
    told = ", ".join(f"{name} {_off(ahead_s[name])}" for name in off[:NAMED_AT_MOST])
    text = f"{queue}: agents' clocks: {told}{_more(off)} the server's"
    cure = SET_CLOCKS
    if len(off) == len(ahead_s) > 1 and ours_ahead_s is not None and abs(ours_ahead_s) >= CLOCK_WARN_S:
        cure = f"everybody's differs: it is the server's that is off; {SET_CLOCKS}"
    return [Finding("clocks", _clock_level(abs(ahead_s[off[0]])), text, cure)]


def policies(
    queue: str, policies: Sequence[Mapping[str, Any] | None], refused: Sequence[tuple[str, Sequence[str | None]]]
) -> list[Finding]:
    """What the policies of a queue's agents mean for jobs that wait.

    `policies`: each agent's, as what of it is not the default; None where it does not tell. `refused`: by job that
    waits, oldest first, why each agent that could take it would refuse it, None where it would not.
    """
    check = "policy"
    told = [one for one in policies if one is not None]
    if not told:
        return []
    everywhere = [(job, reasons[0]) for job, reasons in refused if reasons and all(reasons)]
    somewhere = [
        (job, next(filter(None, reasons)), sum(1 for one in reasons if one), len(reasons))
        for job, reasons in refused
        if any(reasons) and not all(reasons)
    ]
    found = []
    if everywhere:
        job, reason = everywhere[0]
        others = f" (and {_counted(len(everywhere) - 1, 'other job')})" if len(everywhere) > 1 else ""
        cure = "change the job and submit it again, or what agent.yaml allows, and start the agents again"
        found.append(fail(check, f"{job}{others} would be refused by every agent that could take it: {reason}", cure))
    if somewhere:
        name, why, some, of = somewhere[0]
        cure = "one refusal ends a job: give the agents of one queue the same agent.yaml"
        found.append(warn(check, f"{name} would be refused by {some} of {of} agents: {why}", cure))
    if found:
        return found
    keys = sorted({key for one in told for key in one})
    if not keys:
        return [ok(check, f"{queue}: the default one on {_counted(len(told), 'agent')}")]
    return [ok(check, f"{queue}: agents have rules on {', '.join(keys)}; no waiting job is refused")]


def streams(
    drifts: Mapping[str, Mapping[str, tuple[Any, Any]] | None], fixed: Sequence[str], queues: Sequence[str] = ()
) -> list[Finding]:
    """One finding a stream that is not as it should be, else one for all.

    `drifts`: by stream, what is found and what should be of each key that differs; None if there is no such stream.
    `fixed`: keys that can't be changed in place. `queues`: the names of the streams of queues.
    """
    found = []
    if not drifts:
        return [warn("streams", "this user may not look at them", "look with the role viewer or admin")]
    if all(drift is None for drift in drifts.values()):
        return [warn("streams", "there are none yet", "launch queue apply FILE makes them")]
    for name, drift in drifts.items():
        if drift is None:
            cure = "launch queue apply FILE makes it again"
            found.append(fail("streams", f"there is no stream {name}", cure))
        elif drift:
            told = (f"{key} is {_value(is_)}, should be {_value(wanted)}" for key, (is_, wanted) in drift.items())
            text = ", ".join(told)
            cure = "launch queue apply FILE repairs it" + ("" if name in queues else ", with any queue's file")
            if set(drift) & set(fixed):
                cure = (
                    f"can't be changed in place: move what is in it, delete the stream {name}, and apply a queue again"
                )
            found.append(fail("streams", f"stream {name}: {text}", cure))
    return found or [ok("streams", f"{len(drifts)} streams and buckets are as they should be")]


def disk(free_bytes: int, where: str) -> Finding:
    """Whether images and containers have room."""
    text = f"{show_memory(free_bytes)} free in {where}"
    if free_bytes >= DISK_WARN_BYTES:
        return ok("disk", text)
    level = Level.FAIL if free_bytes < DISK_FAIL_BYTES else Level.WARN
    return Finding("disk", level, f"only {text}", "make room: docker system prune, or a larger disk")


def gpu_runtime(gpus: int, runtimes: Sequence[str]) -> Finding:
    """Whether containers can have the GPUs that the machine has."""
    if not gpus:
        return ok("gpu", "no NVIDIA GPUs here")
    text = f"{gpus} NVIDIA GPU{'s' if gpus > 1 else ''} here"
    if any("nvidia" in runtime for runtime in runtimes):
        return ok("gpu", f"{text}, and the engine has the NVIDIA runtime")
    cure = "install nvidia-container-toolkit, run nvidia-ctk runtime configure --runtime=docker, restart the engine"
    return warn("gpu", f"{text}, but the engine has no NVIDIA runtime", cure)


def queue_state(spec: QueueSpec, *, paused: bool, messages: int) -> Finding:
    """The queue itself."""
    check, name = "queue", spec.queue_name
    jobs = f"{_counted(messages, 'job')} in it"
    text = f"{name}: {spec.provider.type}, {spec.min_instances} to {spec.max_instances} instances, {jobs}"
    if paused:
        return warn(check, f"{name} is paused, with {jobs}", f"launch queue resume {name}")
    if isinstance(spec.provider, AwsProvider) and spec.agent_image is None:
        return fail(check, f"{text}, and it names no agent_image", "set agent_image in its file, and apply it again")
    if spec.max_instances == 0 and not isinstance(spec.provider, StaticProvider):
        return warn(check, f"{text}: no worker is ever started", "raise max_instances in its file, and apply it again")
    return ok(check, text)


def present(spec: QueueSpec, agents: Sequence[AgentPresence], *, waiting: int, version: str) -> list[Finding]:
    """Who works for the queue. `waiting`: jobs that nobody holds; `version`: our own."""
    check, name = "agents", spec.queue_name
    if not agents:
        static = isinstance(spec.provider, StaticProvider)
        cure = f"launch agent -q {name}" if static else "launch scaler starts them as jobs come"
        text = f"{name}: no agents are present"
        if not waiting:
            return [warn(check, text, cure) if static else ok(check, f"{text}, and nothing waits for one")]
        text += f", and {_counted(waiting, 'job')} wait" + ("s" if waiting == 1 else "")
        return [fail(check, text, cure) if static else warn(check, text, cure)]
    ready = [agent for agent in agents if agent.state is AgentState.READY]
    counts = Counter(str(agent.state) for agent in agents)
    text = f"{name}: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    types = {kind for agent in ready for kind in agent.job_types or ()}
    any_type = any(agent.job_types is None for agent in ready)
    takes = "jobs of any type" if any_type else f"jobs of the types {', '.join(sorted(types)) or '(none)'}"
    found = [ok(check, f"{text}, taking {takes}{_room(ready)}")]
    if not ready:
        cure = f"wait until they are gone and others come, or start one: launch agent -q {name}"
        found = [warn(check, f"{text}: none takes more work", cure)]
    missing = sorted(set(spec.job_types or ()) - types)
    if ready and missing and not any_type:
        cure = f"launch agent -q {name} -t {missing[0]}"
        found.append(warn(check, f"{name}: no agent takes the type {', '.join(missing)}", cure))
    other = [agent for agent in agents if agent.version != version]
    if other:
        told = ", ".join(f"{agent.agent_id} {agent.version}" for agent in other[:NAMED_AT_MOST])
        text = f"{name}: other versions than {version} here: {told}{_more(other)}"
        found.append(warn(check, text, "install the same nats-launch everywhere"))
    return found


def scaler(
    spec: QueueSpec, report: ScalingReport | None, now: datetime, *, waiting: int, agents: int
) -> Finding:  # fmt: skip
    """Whether somebody starts workers, and whether it can."""
    check, name = "scaler", spec.queue_name
    if isinstance(spec.provider, StaticProvider):
        return ok(check, f"{name}: its workers are static, no scaler is needed")
    missing = coming.absent(name, report, now)
    if report is None or missing is not None:
        text = f"{name}: {missing.text if missing else 'no scaler has looked yet'}"
        cure = (missing.hint if missing else None) or coming.START_ONE
        return fail(check, text, cure) if waiting and not agents else warn(check, text, cure)
    trouble = coming.stopped(spec, report, now)
    if trouble is not None:
        return fail(check, f"{name}: {trouble.text}", trouble.hint or "see the log of launch scaler")
    age_s = max(0.0, (now - report.at).total_seconds())
    text = f"{name}: {report.leader} looked {show_duration(age_s)} ago, {_counted(report.count, 'instance')}"
    return ok(check, text)


def _room(ready: Sequence[AgentPresence]) -> str:
    """How large a job may be, and how many more there is room for."""
    if not ready:
        return ""
    cpu, memory = (max(getattr(agent.capacity, of) for agent in ready) for of in ("cpu_milli", "memory_bytes"))
    gpus, free = max(agent.capacity.gpus for agent in ready), sum(agent.free.slots for agent in ready)
    largest = f"{show_cpu(cpu)} CPU, {show_memory(memory)}" + (f", {_counted(gpus, 'GPU')}" if gpus else "")
    return f" of up to {largest}; room for {_counted(free, 'more job')}"


def _clock_level(off_s: float) -> Level:
    return Level.FAIL if off_s >= CLOCK_FAIL_S else Level.WARN


def _off(ahead_s: float) -> str:
    return f"{show_duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'}"


def _more(names: Sequence[Any]) -> str:
    """What is left out of a list."""
    return f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""


def _value(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
