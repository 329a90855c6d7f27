"""What `launch jobs` lists, without reading every record that was ever written.

Finished jobs are found from the end of the records, by their last change; jobs that are not over lie in their queues,
and those that agents hold stand in their presence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from launch.core.states import State
from launch.errors import NotFound, NotPermitted, Unreadable
from launch.ports import Broker, Message
from launch.record import JobRecord
from launch.subjects import JobId
from launch.unclaimed import unclaimed_record

PAGE = 500
"""Messages, or records, that are asked for at once."""
LOOKED_AT = 5
"""How many times as many records are looked at for those in one state, before all of them are."""
MAX_LISTED = 1_000_000
"""As many jobs of one queue are listed when no limit is given."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Jobs, oldest first; `more`: records that changed earlier are left out."""

    jobs: list[JobRecord]
    more: bool


async def list_jobs(broker: Broker, queue: str | None, state: State | None, limit: int | None) -> Listing:
    """See `launch.client.Client.jobs`. Raises `NotFound` and `NotPermitted`."""
    try:
        known, more = await _records(broker, queue, state, limit)
    except NotPermitted as error:
        if queue is not None:
            raise
        hint = "name a queue that it has a role for: launch jobs -q QUEUE"
        raise NotPermitted("this user may not list the jobs of all queues", hint=hint) from error
    any_kept = bool(known)
    fresh: list[JobRecord] = []
    if state in (None, State.QUEUED):
        for name in await _names(broker, queue):
            try:
                found = await _in_line(broker, name, known, limit)
            except NotFound:
                if queue and not any_kept:
                    raise
                continue
            fresh += found
    wanted = [record for record in known.values() if state in (None, record.state)]
    if limit is not None and len(wanted) > limit:
        more = True
        wanted = sorted(wanted, key=lambda record: (record.updated_at, record.id))[-limit:]
    return Listing(sorted(wanted + fresh, key=_age), more)


async def _names(broker: Broker, queue: str | None) -> list[str]:
    return [queue] if queue else [spec.queue_name for spec in await broker.queues.list()]


async def _records(
    broker: Broker, queue: str | None, state: State | None, limit: int | None
) -> tuple[dict[JobId, JobRecord], bool]:
    """The records to choose from, and whether there are others."""
    if limit is None:
        return _by_id(await broker.records.list(queue)), False
    found, more = await broker.records.recent(limit if state is None else limit * LOOKED_AT, queue=queue)
    known = _by_id(found)
    if not more or state in (None, State.QUEUED):
        return known, more
    if not state.terminal:
        held = {JobId.parse(job) for agent in await broker.agents.list(queue) for job in agent.holds}
        # What an agent had that is lost stands in no presence, but lies in its queue still, before what came later.
        for name in await _names(broker, queue):
            with contextlib.suppress(NotFound):
                held |= {message.job for message in await broker.jobs.peek(name, limit)}
        return known | await _looked_up(broker, held - known.keys()), more
    if sum(record.state is state for record in found) < limit:
        return _by_id(await broker.records.list(queue)), False
    return known, more


async def _in_line(broker: Broker, queue: str, known: dict[JobId, JobRecord], limit: int | None) -> list[JobRecord]:
    """The first jobs of the queue that have no record; those met on the way that have one are added to `known`."""
    wanted = MAX_LISTED if limit is None else limit
    fresh: list[Message] = []
    after_seq = 0
    while len(fresh) < wanted:
        page = await broker.jobs.peek(queue, min(PAGE, wanted), after_seq=after_seq)
        if not page:
            break
        after_seq = page[-1].job.seq
        unsure = [message for message in page if message.job not in known]
        # Without a limit all records have been read.
        known |= await _looked_up(broker, [message.job for message in unsure]) if limit is not None else {}
        fresh += [message for message in unsure if message.job not in known]
    return [unclaimed_record(message) for message in fresh[:wanted]]


async def _looked_up(broker: Broker, jobs: Iterable[JobId]) -> dict[JobId, JobRecord]:
    """The records of these jobs, as far as they have one that can be read."""

    async def look(job: JobId) -> JobRecord | None:
        try:
            found = await broker.records.get(job)
        except Unreadable:
            return None
        return found.value if found else None

    jobs = list(jobs)
    records: list[JobRecord | None] = []
    for start in range(0, len(jobs), PAGE):
        records += await asyncio.gather(*map(look, jobs[start : start + PAGE]))
    return _by_id(record for record in records if record is not None)


def _by_id(records: Iterable[JobRecord]) -> dict[JobId, JobRecord]:
    return {record.id: record for record in records}


def _age(record: JobRecord) -> tuple[datetime, JobId]:
    return record.submitted_at, record.id
