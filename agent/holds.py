"""The jobs that this agent holds now, and the word that something changed.

One owner for three readers: the lease renews what is held, presence lists it, the intake waits for room.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agent.core.ledger import Holding, Ledger
from agent.core.outcome import StopCause
from launch.core.capacity import Amount
from launch.job import JobSpec
from launch.record import JobRecord
from launch.subjects import JobId


@dataclass(slots=True, eq=False)
class Hold:
    """One claimed job: its record as last written, its newest reply token, and the request to stop it, if any."""

    job: JobId
    record: JobRecord
    revision: int
    spec: JobSpec
    reply: str
    holding: Holding
    digest: str | None = None
    recovered: bool = False
    """Its container was made by an earlier process of this agent."""
    grace_s: float = 0.0
    """How long after SIGTERM the container gets, once a stop was asked for."""
    leave_by_s: float | None = None
    """When by the loop's clock everything must be done with, if the machine is being taken away."""
    made: bool = False
    """A container of this attempt may be there."""
    fenced: bool = False
    """A later attempt owns the job, whatever else was asked for before."""
    stop: asyncio.Future[StopCause] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def ask_to_stop(self, cause: StopCause, *, within_s: float | None = None) -> None:
        """The first request counts; later ones are ignored. `within_s` cuts the grace that the job asks for."""
        self.fenced = self.fenced or cause is StopCause.FENCED
        if not self.stop.done():
            self.grace_s = self.spec.stop_grace if within_s is None else min(within_s, self.spec.stop_grace)
            if within_s is not None and cause is StopCause.PREEMPTED:
                self.leave_by_s = asyncio.get_running_loop().time() + within_s
            self.stop.set_result(cause)


class Holds:
    """All claimed jobs by id, what is kept back for want of room, and the worker's books."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._claimed: dict[JobId, Hold] = {}
        self._kept_back: dict[JobId, tuple[str, JobSpec]] = {}
        self._watchers: list[asyncio.Event] = []

    def __len__(self) -> int:
        return len(self._claimed)

    def get(self, job: JobId) -> Hold | None:
        """The claimed job, if it is here."""
        return self._claimed.get(job)

    def all(self) -> tuple[Hold, ...]:
        """Every claimed job."""
        return tuple(self._claimed.values())

    def free(self) -> Amount:
        """What the claimed jobs leave free, in step with `all`.

        A job that is being claimed is in neither: whoever reads both never sees room gone without the job that has it.
        """
        free = self.ledger.capacity
        for hold in self._claimed.values():
            if self.ledger.find(hold.job) is hold.holding:
                free -= hold.holding.amount
        return free

    def reserve(self, job: JobId, amount: Amount) -> Holding:
        """Set resources aside for a job that is about to be claimed."""
        holding = self.ledger.hold(job, amount)
        self._touch()
        return holding

    def unreserve(self, job: JobId, holding: Holding) -> None:
        """Give back an attempt's resources; the job itself may still be held (its container has exited)."""
        self.ledger.release(job, holding)
        self._touch()

    def add(self, hold: Hold) -> None:
        """The job is claimed: renew it, list it."""
        self._claimed[hold.job] = hold
        self._touch()

    def drop(self, hold: Hold) -> None:
        """This attempt is done with, whatever it came to. The job's next one may be held here already, and stays."""
        if self._claimed.get(hold.job) is hold:
            del self._claimed[hold.job]
            self.ledger.release(hold.job, hold.holding)
            self._touch()

    def keep_back(self, job: JobId, reply: str, spec: JobSpec) -> None:
        """Keep an unclaimed delivery from being redelivered while it waits for room."""
        news = job not in self._kept_back
        self._kept_back[job] = reply, spec
        if news:
            self._touch()

    def let_go(self, job: JobId) -> None:
        """The opposite of `keep_back`."""
        self._kept_back.pop(job, None)

    def kept_back(self) -> list[JobSpec]:
        """The jobs that wait here for room."""
        return [spec for _, spec in self._kept_back.values()]

    def replies(self) -> list[str]:
        """The reply tokens to send progress on."""
        return [hold.reply for hold in self._claimed.values()] + [reply for reply, _ in self._kept_back.values()]

    def watch(self) -> asyncio.Event:
        """An event that is set at every change from now on; its one reader clears it."""
        event = asyncio.Event()
        self._watchers.append(event)
        return event

    def _touch(self) -> None:
        for event in self._watchers:
            event.set()
