"""Why a job does not run yet, in one sentence, with what to do about it.

A pure function of what can be seen from outside: the record, the queue's spec and whether it is paused, the agents
that are present, the jobs before it, and what the scaler has told of last. It says what is missing with the numbers,
never just "pending".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from launch.core import coming
from launch.core.capacity import Amount
from launch.core.line import Ahead
from launch.core.states import State
from launch.core.why import Why
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, LocalProvider, QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.scaling import ScalingReport

__all__ = ["Why", "explain"]


def explain(
    record: JobRecord,
    *,
    queue: QueueSpec | None,
    paused: bool,
    agents: Sequence[AgentPresence],
    now: datetime,
    ahead: Ahead | None = None,
    scaling: ScalingReport | None = None,
) -> Why | None:
    """What a job waits for; None if it runs or is over. `agents` may hold agents of other queues.

    `ahead`: the jobs that are served before it. `scaling`: what the queue's scaler told last, if one ever did.
    """
    if record.state is State.RUNNING or record.state.terminal:
        return None
    if record.cancel is not None:
        return Why("waiting to be cancelled")
    if record.state is State.PREPARING:
        return _preparing(record, agents)
    if queue is None:
        return Why(f"there is no queue '{record.queue}' any more", "apply it again: launch queue apply FILE")
    if paused:
        return Why("the queue is paused", f"launch queue resume {record.queue}")
    if queue.job_types is not None and record.job_type not in queue.job_types:
        types = ", ".join(queue.job_types)
        return Why(
            f"the queue's workers take only {types}, and this is a {record.job_type}", "submit it as one of these"
        )
    why, more_would_help = _queued(record, queue, [agent for agent in agents if agent.queue == record.queue])
    if more_would_help and not isinstance(queue.provider, StaticProvider):
        why = _with_scaler(why, queue, scaling, now, present=bool(agents))
    # Whoever is between attempts has been at the head already.
    return Why(f"{ahead}; {why.text}", why.hint) if ahead and ahead.count and not record.attempt else why


def _preparing(record: JobRecord, agents: Sequence[AgentPresence]) -> Why:
    if record.agent is not None and all(agent.agent_id != record.agent for agent in agents):
        return Why(f"its agent {record.agent} is not answering", "another one takes over when its lease is up")
    if record.message:
        return Why(record.message)
    image = record.image or (record.spec.image if record.spec else None)
    made_of = f" the image {image} and its container" if image else " it"
    return Why(f"{record.agent or 'an agent'} is preparing{made_of}")


def _queued(record: JobRecord, queue: QueueSpec, agents: Sequence[AgentPresence]) -> tuple[Why, bool]:
    """Why none of the agents has taken it, and whether another instance would help."""
    need = queue.with_defaults(record.spec).resources.amount() if record.spec else Amount(slots=1)
    if not agents:
        return _no_agents(queue, record, need)
    takers = [a for a in agents if a.job_types is None or record.job_type in a.job_types]
    if not takers:
        return Why(
            f"none of the {_count(agents)} present takes the type {record.job_type}",
            f"start one with: launch agent -q {record.queue} -t {record.job_type}",
        ), False
    able = [agent for agent in takers if need.fits_in(agent.capacity)]
    if not able:
        best = min(takers, key=lambda agent: need.load_of(agent.capacity))
        lack = need.shortfall(best.capacity)
        return Why(
            f"it fits none of the {_count(takers)} present: it needs {lack}", "ask for less, or add a larger agent"
        ), False
    ready = [agent for agent in able if agent.state is AgentState.READY]
    if not ready:
        return Why(f"every agent that could take it is draining ({_count(able)})", "another one has to start"), True
    if any(need.fits_in(agent.free) for agent in ready):
        return _about_to_start(record), False
    held = sum(len(agent.holds) for agent in ready)
    fullest = min(ready, key=lambda agent: need.load_of(agent.free))
    lack = need.shortfall(fullest.free)
    return Why(f"{_count(ready)} present, all full (holding {_counted(held, 'job')}): short of {lack}"), True


def _with_scaler(why: Why, queue: QueueSpec, report: ScalingReport | None, now: datetime, *, present: bool) -> Why:
    """The same with what the scaler does about it, or what keeps it from that."""
    missing = coming.absent(queue.queue_name, report, now)
    if report is None or missing is not None:
        if missing is None or (present and (report.count if report else 1) >= queue.max_instances):
            return why
        return Why(f"{why.text}, and {missing.text}", missing.hint)
    on_its_way = coming.booting(report, now)
    trouble = coming.stopped(queue, report, now)
    if trouble is not None:
        text = f"{trouble.text}; {on_its_way}" if on_its_way else trouble.text
        return Why(f"{why.text}; {text}" if present else text, trouble.hint)
    if on_its_way:
        return Why(f"{why.text}; {on_its_way}" if present else on_its_way)
    limit = coming.at_limit(queue, report)
    return Why(f"{why.text}; {limit}") if limit else why


def _about_to_start(record: JobRecord) -> Why:
    if record.attempt and record.message:
        return Why(f"between attempts: {record.message}")
    if record.attempt:
        return Why(f"between attempts: attempt {record.attempt} ended as {record.reason or 'lost'}")
    return Why("about to be taken by an agent")


def _no_agents(queue: QueueSpec, record: JobRecord, need: Amount) -> tuple[Why, bool]:
    text = "no agents are present"
    if isinstance(queue.provider, StaticProvider):
        return Why(text, f"start one with: launch agent -q {record.queue}"), False
    if queue.max_instances == 0:
        return Why(f"{text}, and the queue's max_instances is 0", "raise it and apply the queue again"), False
    if isinstance(queue.provider, LocalProvider) and (lack := need.shortfall(_largest(queue.provider, need))):
        return Why(
            f"it fits no worker that this queue can have: {lack}", "ask for less, or give the queue's provider more"
        ), False
    kind = "an EC2 instance" if isinstance(queue.provider, AwsProvider) else "one"
    return Why(f"{text} yet", f"the scaler starts {kind}"), True


def _largest(provider: LocalProvider, need: Amount) -> Amount:
    """The largest worker that there can be, as far as the provider's settings say; the rest is taken for enough."""
    cpu = need.cpu_milli if provider.cpu is None else round(provider.cpu * 1000)
    memory = need.memory_bytes if provider.memory is None else provider.memory
    return need.model_copy(update={"cpu_milli": cpu, "memory_bytes": memory})


def _count(agents: Sequence[AgentPresence]) -> str:
    return _counted(len(agents), "agent")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
