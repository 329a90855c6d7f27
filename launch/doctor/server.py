"""NATS: version, JetStream, permissions, streams, clocks."""

from __future__ import annotations

from collections.abc import Sequence

from launch import subjects
from launch.core import doctor
from launch.core.doctor import Finding, fail, ok, warn
from launch.core.quantity import show_memory
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


async def clocks(server: Server) -> list[Finding]:
    """Whether its clock and ours agree."""
    ahead_s = await server.ahead_s()
    if ahead_s is None:
        return [ok("clocks", "the server does not tell this user its time")]
    return [doctor.clocks(ahead_s)]


async def streams(server: Server, queues: Sequence[str], fixed: Sequence[str]) -> list[Finding]:
    """Whether each stream and bucket is as it should be."""
    names = [subjects.work_stream(name) for name in queues]
    return doctor.streams(await server.drifts(queues), fixed, names)


async def permissions(server: Server, queue: str | None) -> list[Finding]:
    """What this user may do, by asking for it in ways that change nothing."""
    who = await server.user()
    may: list[str] = []
    may_not: list[str] = []
    for what, asks, publishes in _acts(queue or "doctor"):
        told = [await server.may_ask(subject) for subject in asks]
        told += [await server.may_publish(subject) for subject in publishes]
        (may if all(one is not False for one in told) else may_not).append(what)
    text = f"{who or 'this user'} may {', '.join(may) or 'nothing'}"
    if may_not:
        text += f"; may not {', '.join(may_not)}"
    if "look" in may_not:
        return [fail("permissions", text, "give this user a role of nats.conf that may read queues and records")]
    return [ok("permissions", text)]


def _acts(queue: str) -> list[tuple[str, list[str], list[str]]]:
    """What people and programs do: the requests, and the publishes that it takes."""
    stream, job = subjects.work_stream(queue), JobId(queue, 1)

    def read(bucket: str, key: str) -> str:
        return f"DIRECT.GET.{subjects.bucket_stream(bucket)}.{subjects.bucket_subject(bucket, key)}"

    def write(bucket: str, key: str) -> str:
        return subjects.bucket_subject(bucket, key)

    nobody = "launch-doctor"
    work = [write(subjects.JOBS_BUCKET, job.key), write(subjects.AGENTS_BUCKET, nobody), subjects.log_subject(job)]
    scale = [write(subjects.SCALER_BUCKET, subjects.scaler_report_key(queue)), write(subjects.LEASES_BUCKET, queue)]
    return [
        ("look", [read(subjects.QUEUES_BUCKET, queue), read(subjects.JOBS_BUCKET, job.key)], []),
        ("submit", [], [f"queue.{queue}.default"]),
        # A pull from a consumer that does not exist gets nothing.
        ("work", [f"CONSUMER.MSG.NEXT.{stream}.{nobody}"], work),
        ("scale", [], scale),
        # Without a configuration the server refuses it.
        ("administer", [f"STREAM.UPDATE.{stream}"], [write(subjects.QUEUES_BUCKET, queue)]),
    ]
