"""NATS: version, JetStream, permissions, streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from launch import subjects
from launch.core import doctor
from launch.core.doctor import Finding, fail, ok, warn
from launch.core.quantity import show_memory
from launch.core.roles import Role
from launch.doctor.parts import Server
from launch.errors import BrokerUnavailable
from launch.subjects import JobId

ON = "start nats-server with -js, or with this project's nats.conf"


async def version(server: Server, least: tuple[int, int]) -> list[Finding]:
    """Whether it is new enough."""
    return [doctor.nats_version(server.version, least)]


async def jetstream(server: Server) -> list[Finding]:
    """Whether it is on, and how full."""
    try:
        account = await server.jetstream()
    except BrokerUnavailable as error:
        return [fail("jetstream", f"JetStream does not answer: {error.message}", ON)]
    used, limit = int(account.get("storage", 0)), int((account.get("limits") or {}).get("max_storage", -1))
    text = f"on, {account.get('streams', 0)} streams, {show_memory(used)} stored"
    if limit > 0 and used >= 0.9 * limit:
        cure = "raise the account's max_storage, or delete what is not needed"
        return [warn("jetstream", f"{text} of {show_memory(limit)}", cure)]
    return [ok("jetstream", text)]


async def streams(server: Server, queues: Sequence[str], fixed: Sequence[str]) -> list[Finding]:
    """Whether each stream and bucket is as it should be."""
    names = [subjects.work_stream(name) for name in queues]
    return doctor.streams(await server.drifts(queues), fixed, names)


async def permissions(server: Server, queue: str | None) -> list[Finding]:
    """What this user may do, by asking for it in ways that change nothing."""
    acts = _acts(queue or _NOBODY)
    who, *answers = await asyncio.gather(server.user(), *(_may(server, act) for act in acts))
    may = [act.name for act, allowed in zip(acts, answers, strict=True) if allowed]
    may_not = [act.name for act in acts if act.name not in may]
    text = f"{who or 'this user'} may {', '.join(may) or 'do nothing'}" + (f" in {queue}" if queue else "")
    if may and may_not:
        text += f"; may not {', '.join(may_not)}"
    if "look" in may_not:
        cure = "give this user a role: launch server --secure makes one for each; see docs/security.md, NATS roles"
        return [fail("permissions", text, cure)]
    role = _ROLES.get(tuple(may))
    return [ok("permissions", f"{text}: the role {role}" if role else text)]


_NOBODY = "launch-doctor"
_ROLES = {
    ("look",): Role.VIEWER,
    ("look", "submit"): Role.PUBLISHER,
    ("look", "submit", "cancel"): Role.OPERATOR,
    ("look", "cancel", "work"): Role.AGENT,
    ("look", "cancel", "scale"): Role.SCALER,
    ("look", "submit", "cancel", "work", "scale", "administer"): Role.ADMIN,
}
"""By what they may do; who may do something else has permissions of their own making."""


class _Act(NamedTuple):
    """Something that people and programs do: the requests, and the publishes that it takes."""

    name: str
    asks: Sequence[str] = ()
    publishes: Sequence[str] = ()


async def _may(server: Server, act: _Act) -> bool:
    asked = [server.may_ask(subject) for subject in act.asks]
    told = await asyncio.gather(*asked, *(server.may_publish(subject) for subject in act.publishes))
    return all(one is not False for one in told)


def _acts(queue: str) -> tuple[_Act, ...]:
    stream, job = subjects.work_stream(queue), JobId(queue, 1)

    def read(bucket: str, key: str) -> str:
        return f"DIRECT.GET.{subjects.bucket_stream(bucket)}.{subjects.bucket_subject(bucket, key)}"

    write = subjects.bucket_subject
    record, presence = write(subjects.JOBS_BUCKET, job.key), write(subjects.AGENTS_BUCKET, _NOBODY)
    report, lease = write(subjects.SCALER_BUCKET, subjects.scaler_report_key(queue)), subjects.LEASES_BUCKET
    return (
        _Act("look", [read(subjects.QUEUES_BUCKET, queue), read(subjects.JOBS_BUCKET, job.key)]),
        _Act("submit", publishes=[f"queue.{queue}.default"]),
        # A request to delete that does not say what is refused.
        _Act("cancel", [f"STREAM.MSG.DELETE.{stream}"], [record]),
        # A pull from a consumer that does not exist gets nothing.
        _Act("work", [f"CONSUMER.MSG.NEXT.{stream}.{_NOBODY}"], [record, presence, subjects.log_subject(job)]),
        _Act("scale", publishes=[report, write(lease, queue)]),
        # Without a configuration the server refuses it.
        _Act("administer", [f"STREAM.UPDATE.{stream}"], [write(subjects.QUEUES_BUCKET, queue)]),
    )
