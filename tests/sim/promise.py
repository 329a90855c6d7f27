"""The promise, checked on what was seen from outside: the engines' own accounts, the broker's stores, nobody's word.

Every published job reaches exactly one terminal record, and its message is gone. A job's container never runs twice
at the same time, and nobody takes a job from an agent that is there. Both hold as long as the agent is in contact; what
is out of contact for longer than the lease, while who takes over was in contact all that time, may lose its jobs, and
must end their containers when it is back. Nothing runs again after its end is recorded, and nothing is left behind.
"""

from __future__ import annotations

from itertools import combinations

from launch.core.states import Reason, State
from launch.record import JobRecord
from tests.sim.facts import Facts, Run, Spans
from tests.sim.plan import ACK_WAIT_S, DISTURBING, ENGINE_TROUBLE, LEASE_S, Plan

RENEW_S = LEASE_S / 3 + 0.5
"""How long it may be since an agent in contact has renewed its entry, the way to the broker included."""
LOST_AFTER_S = LEASE_S - RENEW_S
BACK_S = 1.5
"""How soon an agent that is in contact again has renewed its entry."""
FENCE_S = 3.0
"""How soon an agent in contact stops the container of a job that it has lost, besides the grace."""
SLACK_S = 0.05


class _Job:
    """One job's runs and records."""

    def __init__(self, seq: int, plan: Plan, facts: Facts) -> None:
        self.seq = seq
        self.number = facts.published[seq]
        self.plan = plan.jobs[self.number]
        self.runs = [run for run in facts.runs if run.job == seq]
        key = f"q.{seq}"
        self.writes = [(w.at_s, JobRecord.model_validate_json(w.value)) for w in facts.writes if w.key == key]
        self.claims: dict[int, tuple[float, JobRecord]] = {}
        """The first write of each attempt."""
        for at_s, record in self.writes:
            if record.attempt > 0:
                self.claims.setdefault(record.attempt, (at_s, record))


def broken_promises(plan: Plan, facts: Facts) -> list[str]:
    """What the run broke, a sentence each."""
    broken = [f"our own code: {defect}" for defect in facts.defects]
    broken += [f"left in the end: {left}" for left in facts.left]
    for seq in sorted(facts.published):
        job = _Job(seq, plan, facts)
        for check in (_ends_once, _counts, _cancels, _never_doubled, _not_after_end, _tells_the_truth, _kept):
            broken += [f"job {job.number} (message {seq}): {text}" for text in check(job, plan, facts)]
    return broken


def _ends_once(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    del plan, facts
    ends = [at_s for at_s, record in job.writes if record.state.terminal]
    if len(ends) != 1:
        return [f"has {len(ends)} terminal records"]
    if job.writes[-1][0] > ends[0]:
        return ["its record was changed after its end"]
    return []


def _counts(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    del facts
    broken = []
    for at_s, record in job.writes:
        if record.attempt > record.failures + record.interruptions + 1:
            broken.append(f"{at_s:.3f}: attempt {record.attempt} is not explained by what went wrong before")
        if record.failures > job.plan.retries + 1:
            broken.append(f"{at_s:.3f}: {record.failures} failures with {job.plan.retries} retries")
    if job.writes and job.writes[-1][1].interruptions and not plan.has(DISTURBING):
        exits = [run.code for run in job.runs]
        if 143 not in exits and 137 not in exits:
            broken.append(f"{job.writes[-1][1].interruptions} interruptions, but nothing disturbed this run")
    return broken


def _cancels(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    del plan, facts
    asked = next(((at_s, record) for at_s, record in job.writes if record.cancel is not None), None)
    if asked is not None and job.writes[-1][1].attempt > asked[1].attempt:
        return [f"was cancelled at {asked[0]:.3f} in attempt {asked[1].attempt}, and got another attempt"]
    return []


def _never_doubled(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    broken = []
    for older, newer in combinations(sorted(job.runs, key=lambda run: (run.attempt, run.start_s)), 2):
        if older.container == newer.container:
            broken.append(f"a container that had ended was started again at {newer.start_s:.3f}")
        elif older.attempt == newer.attempt:
            broken.append(f"attempt {older.attempt} had two containers")
        elif older.agent == newer.agent and min(older.end_s, newer.end_s) > max(older.start_s, newer.start_s):
            broken.append(f"attempts {older.attempt} and {newer.attempt} ran at the same time on {older.agent}")
    for run in job.runs:
        broken += _taken_fairly(job, run, plan, facts)
        broken += _keeps_its_lease(job, run, facts)
    return broken


def _taken_fairly(job: _Job, run: Run, plan: Plan, facts: Facts) -> list[str]:
    """The next attempt was claimed while this one ran, or before it began: only if its agent was lost."""
    claim = job.claims.get(run.attempt + 1)
    if claim is None or run.end_s <= claim[0]:
        return []
    at_s, record = claim
    taker = record.agent or ""
    if taker == run.agent:
        return [f"{taker} claimed attempt {record.attempt} at {at_s:.3f} while its own attempt {run.attempt} ran"]
    broken = []
    contact = facts.in_contact[run.agent]
    if not _was_lost(contact, at_s):
        broken.append(
            f"{taker} took it over at {at_s:.3f} although {run.agent}, whose container runs, "
            f"was there (in contact {contact})"
        )
    elif not facts.in_contact[taker].always(at_s - LEASE_S + 1, at_s - SLACK_S):
        broken.append(
            f"{taker} took it over at {at_s:.3f} although it may have been out of contact itself "
            f"(in contact {facts.in_contact[taker]})"
        )
    elif plan.stop_on_lost_contact and not plan.has(ENGINE_TROUBLE) and _lived(run, at_s, facts):
        broken.append(f"{run.agent} should have stopped it before {taker} took it over at {at_s:.3f}")
    free_s = 0.0
    for start_s, end_s in contact.within(max(at_s, run.start_s), min(run.end_s, facts.ended_s)):
        free_s += (end_s - start_s) - sum(b - a for a, b in facts.trouble[run.engine].within(start_s, end_s))
    if free_s > job.plan.grace_s + FENCE_S:
        broken.append(
            f"{run.agent} let attempt {run.attempt} run on for {free_s:.1f} s in contact, "
            f"after {taker} had taken the job over at {at_s:.3f}"
        )
    return broken


def _was_lost(contact: Spans, at_s: float) -> bool:
    """Whether an agent had been out of contact for so long that its entry may have expired, and not been renewed."""
    return any(
        end_s - start_s >= LOST_AFTER_S and end_s >= at_s - BACK_S for start_s, end_s in contact.gaps(at_s - SLACK_S)
    )


def _lived(run: Run, at_s: float, facts: Facts) -> bool:
    return facts.alive[run.agent].always(max(run.start_s, at_s - LEASE_S * 2), at_s)


def _keeps_its_lease(job: _Job, run: Run, facts: Facts) -> list[str]:
    contact = facts.in_contact[run.agent]
    return [
        f"its message was given out again at {at_s:.3f} although {run.agent}, who runs it, was there"
        for at_s, seq in facts.ran_out
        if seq == job.seq
        and run.start_s <= at_s - ACK_WAIT_S - 1
        and run.end_s > at_s
        and contact.always(at_s - ACK_WAIT_S - 1, at_s)
        and not any(attempt > run.attempt for attempt in job.claims)
    ]


def _not_after_end(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    del plan, facts
    end = next(((at_s, record) for at_s, record in job.writes if record.state.terminal), None)
    if end is None:
        return []
    at_s, record = end
    broken = []
    for run in job.runs:
        if run.attempt < record.attempt:
            continue  # if it was taken over, that it is ended is checked there
        if run.start_s > at_s:
            broken.append(f"attempt {run.attempt} started at {run.start_s:.3f}, after its end at {at_s:.3f}")
        elif run.end_s > at_s:
            broken.append(f"its end was recorded at {at_s:.3f}, but its container ran until {run.end_s:.3f}")
    return broken


def _tells_the_truth(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    """A success or an exit code in the record is that of the attempt's container."""
    del plan, facts
    if not job.writes:
        return []
    record = job.writes[-1][1]
    run = next((run for run in job.runs if run.attempt == record.attempt), None)
    if record.state is State.SUCCEEDED and (run is None or run.code != 0):
        return [f"succeeded, but attempt {record.attempt} ended with {run and run.code}"]
    if record.reason is Reason.EXIT_NONZERO and (run is None or run.code != record.exit_code):
        return [f"failed with {record.exit_code}, but attempt {record.attempt} ended with {run and run.code}"]
    return []


def _kept(job: _Job, plan: Plan, facts: Facts) -> list[str]:
    """Work that was done, and whose agent and engine were not lost, is not done again."""
    if plan.has(ENGINE_TROUBLE):
        return []
    broken = []
    for run in job.runs:
        claim = job.claims.get(run.attempt + 1)
        if claim is None or run.code != 0 or not run.by_itself:
            continue
        ending = next((r for at, r in job.writes if r.attempt == run.attempt and r.state is State.QUEUED), None)
        if ending is not None and ending.reason in (Reason.TIMED_OUT, Reason.PREEMPTED, Reason.AGENT_LOST):
            continue  # it was told to stop, and just made it
        if not _was_lost(facts.in_contact[run.agent], claim[0]):
            broken.append(
                f"attempt {run.attempt} had ended well at {run.end_s:.3f}, and attempt {run.attempt + 1} was claimed "
                f"by {claim[1].agent} at {claim[0]:.3f}"
            )
    return broken
