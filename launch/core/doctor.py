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
from launch.core.quantity import show_duration, show_memory
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, QueueSpec, StaticProvider
from launch.scaling import ScalingReport

CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 60.0
"""AWS refuses requests from a clock that is five minutes off; times in lists are wrong long before."""
DISK_WARN_BYTES, DISK_FAIL_BYTES = 10 * 1024**3, 1024**3
NAMED_AT_MOST = 5


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


def clocks(ahead_s: float) -> Finding:
    """`ahead_s`: how far our clock is before the server's."""
    off_s = abs(ahead_s)
    if off_s < CLOCK_WARN_S:
        return ok("clocks", f"this machine's and the server's differ by {off_s:.1f} s")
    text = f"this machine's clock is {show_duration(off_s)} {'ahead of' if ahead_s > 0 else 'behind'} the server's"
    level = Level.FAIL if off_s >= CLOCK_FAIL_S else Level.WARN
    return Finding("clocks", level, text, "set both by NTP, such as with chrony or systemd-timesyncd")


def streams(
    drifts: Mapping[str, Mapping[str, tuple[Any, Any]] | None], fixed: Sequence[str], queues: Sequence[str] = ()
) -> list[Finding]:
    """One finding a stream that is not as it should be, else one for all.

    `drifts`: by stream, what is found and what should be of each key that differs; None if there is no such stream.
    `fixed`: keys that can't be changed in place. `queues`: the names of the streams of queues.
    """
    found = []
    if drifts and all(drift is None for drift in drifts.values()):
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
    takes = "any type" if any_type else f"the types {', '.join(sorted(types)) or '(none)'}"
    found = [ok(check, f"{text}, taking {takes}")]
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
        more = f" and {len(other) - NAMED_AT_MOST} more" if len(other) > NAMED_AT_MOST else ""
        text = f"{name}: other versions than {version} here: {told}{more}"
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


def _value(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
