"""What each NATS role may and may not do, on a real server: the table in docs/security.md is this one.

`LAUNCH_PRINT_MATRIX=1 pytest -s` prints the table as it was found.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from launch import server_users, subjects
from launch.adapters import nats
from launch.adapters.nats import NatsBroker
from launch.adapters.nats.bucket import Bucket
from launch.adapters.nats.connection import Connection
from launch.core.roles import Role
from launch.errors import LaunchError, NotPermitted
from launch.login import Login
from launch.ports import LogChunk
from launch.queue import QueueSpec, StaticProvider
from launch.subjects import JobId, Priority, WorkConsumer
from tests.support.nats_server import NatsServer

MINE, OTHER = "mine", "other"
SECURITY = Path(__file__).resolve().parents[2] / "docs" / "security.md"
ROLES = (Role.PUBLISHER, Role.OPERATOR, Role.AGENT, Role.SCALER, Role.VIEWER, Role.ADMIN)
P, O, A, S, V, X = ROLES  # noqa: E741  (columns of a table)
Call = Callable[[NatsBroker, Connection], Awaitable[object]]


def publish(queue: str) -> Call:
    return lambda broker, _: broker.jobs.publish(queue, "train", b"{}")


def body(queue: str) -> Call:
    return lambda broker, _: broker.jobs.get(JobId(queue, 1))


def record(queue: str) -> Call:
    return lambda broker, _: broker.records.get(JobId(queue, 1))


def records(queue: str) -> Call:
    return lambda broker, _: broker.records.list(queue)


def write_record(queue: str) -> Call:
    return lambda _, link: Bucket(link, subjects.JOBS_BUCKET).put(f"{queue}.7", b"{}")


def logs(queue: str) -> Call:
    return lambda broker, _: broker.logs.tail(JobId(queue, 1), 10)


def write_log(queue: str) -> Call:
    return lambda broker, _: broker.logs.append(JobId(queue, 1), [LogChunk("stdout", 1, "1.0", b"x\n")])


def write_metric(queue: str) -> Call:
    return lambda _, link: link.publish_stored(subjects.metrics_subject(JobId(queue, 1)), b"{}")


def pull(queue: str) -> Call:
    return lambda broker, _: broker.work.pull_now(queue, WorkConsumer("train", Priority.MEDIUM), 1)


def ack(queue: str) -> Call:
    """An ack of what never was delivered gets no answer: a denial comes before the answer to the next request."""

    async def sent(_: NatsBroker, link: Connection) -> None:
        subject = f"$JS.ACK.queue_{queue}.train.1.999.999.1700000000000000000.0"
        denied: list[NotPermitted] = []
        with link.denials.publishing(subject, denied.append):
            await link.publish(subject, b"+ACK")
            await link.api("INFO")
        if denied:
            raise denied[0]

    return sent


def discard(queue: str) -> Call:
    return lambda broker, _: broker.jobs.discard(JobId(queue, 99))


def hear(queue: str) -> Call:
    async def first(broker: NatsBroker, _: Connection) -> object:
        async with aclosing(broker.jobs.notices(queue)) as notices:
            return await anext(notices)

    return first


def api(subject: str, payload: dict[str, object] | None = None) -> Call:
    return lambda _, link: link.api(subject, payload)


MATRIX: tuple[tuple[str, Call, set[Role]], ...] = (
    ("submit to its queue", publish(MINE), {P, O, X}),
    ("submit to another queue", publish(OTHER), {X}),
    ("read a job's body in its queue", body(MINE), {P, O, A, S, V, X}),
    ("read a job's body in another queue", body(OTHER), {V, X}),
    ("hear of jobs of its queue", hear(MINE), {P, O, A, S, V, X}),
    ("hear of jobs of another queue", hear(OTHER), {V, X}),
    ("read a record of its queue", record(MINE), {P, O, A, S, V, X}),
    ("read a record of another queue", record(OTHER), {V, X}),
    ("list the records of its queue", records(MINE), {P, O, A, S, V, X}),
    ("list the records of another queue", records(OTHER), {V, X}),
    ("write a record of its queue (cancel)", write_record(MINE), {O, A, S, X}),
    ("write a record of another queue", write_record(OTHER), {X}),
    ("read logs of its queue", logs(MINE), {P, O, A, V, X}),
    ("read logs of another queue", logs(OTHER), {V, X}),
    ("write logs of its queue", write_log(MINE), {A, X}),
    ("write logs of another queue", write_log(OTHER), {X}),
    ("write metrics of its queue", write_metric(MINE), {A, X}),
    ("write metrics of another queue", write_metric(OTHER), {X}),
    ("pull from its queue", pull(MINE), {A, X}),
    ("ack a job of its queue", ack(MINE), {A, X}),
    ("ack a job of another queue", ack(OTHER), {X}),
    ("pull from another queue", pull(OTHER), {X}),
    ("delete a job of its queue", discard(MINE), {O, A, S, X}),
    ("delete a job of another queue", discard(OTHER), {X}),
    ("read queues' specs", lambda broker, _: broker.queues.list(), {P, O, A, S, V, X}),
    ("change a queue's spec", lambda _, link: Bucket(link, subjects.QUEUES_BUCKET).put("new", b"{}"), {X}),
    ("see who is present", lambda broker, _: broker.agents.list(), {P, O, A, S, V, X}),
    ("write an agent's presence", lambda _, link: Bucket(link, subjects.AGENTS_BUCKET).put("a1", b"{}"), {A, X}),
    ("take the scaler's lease", lambda broker, _: broker.leases.acquire("l", "me", ttl_s=5), {S, X}),
    ("write the scaler's state", lambda _, link: Bucket(link, subjects.SCALER_BUCKET).put("state.x", b"1"), {S, X}),
    ("read a queue's scaling report", lambda broker, _: broker.scaling.latest(MINE), {P, O, A, S, V, X}),
    ("list shipped code", lambda broker, _: broker.code.list("none"), {P, O, A, S, V, X}),
    ("remove shipped code", api("STREAM.PURGE.OBJ_code", {"filter": "$O.code.C.none"}), {P, O, X}),
    ("remove artifacts", api("STREAM.PURGE.OBJ_artifacts", {"filter": "$O.artifacts.C.none"}), {A, X}),
    ("purge logs", api("STREAM.PURGE.logs", {"filter": "logs.none.1"}), {X}),
    ("make a stream", api("STREAM.CREATE.extra", {"name": "extra", "subjects": ["extra"], "max_bytes": 1024}), {X}),
    ("delete its queue's stream", api(f"STREAM.DELETE.queue_{MINE}-none"), {X}),
)


@pytest.fixture
async def secured(fresh_nats: Callable[..., NatsServer], tmp_path: Path) -> tuple[NatsServer, Path]:
    """A server with users for two queues, both made by the admin, a job in each."""
    home = tmp_path / "home"
    home.mkdir()
    server_users.secure(home, [MINE, OTHER])
    server = fresh_nats(config=(home / server_users.USERS_FILE).read_text())
    admin = await connected(server, home, Role.ADMIN)
    for queue in (MINE, OTHER):
        await admin.queues.apply(QueueSpec(queue_name=queue, provider=StaticProvider()))
        await admin.jobs.publish(queue, "train", b"{}")
        async with aclosing(admin.work.consumers(queue, ["train"])) as consumers:
            await anext(consumers)
    await admin.close()
    return server, home


def login(home: Path, role: Role, queue: str = MINE) -> Login:
    name = f"{role}-{queue}" if role in (P, O, A) else str(role)
    return Login(nkey=home / "nkeys" / f"{name}.nk")


async def connected(server: NatsServer, home: Path, role: Role) -> NatsBroker:
    return await nats.connect(server.url, name=f"test {role}", credentials=login(home, role))


async def allowed(call: Call, broker: NatsBroker, link: Connection) -> bool:
    """Whether the server let it pass, whatever it then said."""
    try:
        await call(broker, link)
    except NotPermitted:
        return False
    except LaunchError as error:
        if "in time" in str(error):
            pytest.fail(f"a denial that was not told at once: {error}")
    return True


async def test_each_role_may_do_what_it_needs_and_nothing_else(secured: tuple[NatsServer, Path]) -> None:
    server, home = secured
    found: dict[str, dict[Role, bool]] = {name: {} for name, _, _ in MATRIX}
    async with AsyncExitStack() as stack:
        for role in ROLES:
            broker = await connected(server, home, role)
            stack.push_async_callback(broker.close)
            link = broker._connection
            for name, call, _ in MATRIX:
                found[name][role] = await allowed(call, broker, link)
    if os.environ.get("LAUNCH_PRINT_MATRIX"):
        print(table(found))  # noqa: T201
    # The scaler serves every queue: another queue is one of its own.
    wanted = {
        name: {role: role in roles or (role is S and scaler_may(name)) for role in ROLES} for name, _, roles in MATRIX
    }
    assert found == wanted


def scaler_may(name: str) -> bool:
    """Whether the row is the one of another queue of something that the scaler may in its own."""
    of_its_own = {row.replace(" (cancel)", "").replace("its", "another") for row, _, roles in MATRIX if S in roles}
    return name in of_its_own


def table(found: dict[str, dict[Role, bool]]) -> str:
    """As in docs/security.md."""
    lines = ["| may … | " + " | ".join(ROLES) + " |", "|---|" + ":---:|" * len(ROLES)]
    lines += [
        f"| {name} | " + " | ".join("yes" if may[r] else "no" for r in ROLES) + " |" for name, may in found.items()
    ]
    return "\n".join(lines)


def test_the_documented_table_is_what_was_found() -> None:
    rows = {
        name: {role: role in roles or (role is S and scaler_may(name)) for role in ROLES} for name, _, roles in MATRIX
    }
    assert table(rows) in SECURITY.read_text()


def test_a_server_without_queues_has_no_scaler_yet(tmp_path: Path) -> None:
    assert [file.stem for file in server_users.secure(tmp_path, [])] == [X, V]
    assert S in [file.stem for file in server_users.secure(tmp_path, [MINE])]


async def test_nobody_gets_in_without_a_key_and_none_hears_anothers_answers(secured: tuple[NatsServer, Path]) -> None:
    server, home = secured
    with pytest.raises(LaunchError):
        await nats.connect(server.url, name="nobody")
    publisher = await connected(server, home, P)
    link = publisher._connection
    async with link.subscription("_INBOX.>", lambda _: None):
        await link.settled()
        with pytest.raises(NotPermitted, match=r"may not subscribe to _INBOX\.>"):
            link.denials.check("_INBOX.>")
    await publisher.close()


async def test_reply_subjects_get_past_the_roles_as_documented(secured: tuple[NatsServer, Path]) -> None:
    """Not as it should be, but as docs/security.md says. Once it fails, the server checks them: say so there."""
    server, home = secured
    admin, publisher = await connected(server, home, X), await connected(server, home, P)
    link, seen = publisher._connection, asyncio.Queue[Msg]()
    forged = subjects.bucket_subject(subjects.JOBS_BUCKET, f"{OTHER}.9")
    with pytest.raises(NotPermitted):
        await link.publish_stored(forged, b"{}")
    await publisher.jobs.publish(MINE, "train", b"forged")
    async with admin._connection.subscription(forged, seen.put_nowait), asyncio.timeout(10):
        await admin._connection.settled()
        read = f"$JS.API.DIRECT.GET.{subjects.work_stream(MINE)}"
        await link.publish(read, b'{"seq": 2}', reply=forged)
        assert (await seen.get()).data == b"forged"
        # A subscriber hears of it before the stream has it: ask until it has.
        while (entry := await Bucket(admin._connection, subjects.JOBS_BUCKET).get(f"{OTHER}.9")) is None:
            await link.publish(read, b'{"seq": 2}', reply=forged)
            await seen.get()
    assert entry.value == b"forged"
    assert "The server answers where it is told to" in SECURITY.read_text()
    await publisher.close()
    await admin.close()


async def test_a_role_that_may_not_make_streams_says_who_may(
    fresh_nats: Callable[..., NatsServer], tmp_path: Path
) -> None:
    server_users.secure(tmp_path, [MINE])
    server = fresh_nats(config=(tmp_path / server_users.USERS_FILE).read_text())
    with pytest.raises(NotPermitted, match=r"stream \S+ is not there, and this user may not make it .*admin"):
        await nats.connect(server.url, name="early", credentials=login(tmp_path, P))


async def test_keys_are_for_their_user_alone_and_kept(tmp_path: Path) -> None:
    first = {path: path.read_text() for path in server_users.secure(tmp_path, [MINE])}
    second = server_users.secure(tmp_path, [OTHER])
    assert {path: path.read_text() for path in first} == first
    assert len(second) == len(first) + 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*second, tmp_path / "nkeys", tmp_path / "nats-users.conf"])
    assert "SU" not in {word[:2] for word in (tmp_path / "nats-users.conf").read_text().split()}
