"""A look at a server that changes nothing: what it is, what its clock says, what this user may do, what exists.

Unlike `connect` it makes no stream, and it does not refuse a server that is too old or without JetStream.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from launch import subjects
from launch.adapters.nats import CONNECT_TIMEOUT_S, DEFAULT_ACK_WAIT_S, NatsBroker, streams
from launch.adapters.nats.connection import MIN_VERSION, Connection, header_of, parse_time, status_of
from launch.adapters.nats.failures import STREAM_NOT_FOUND, ApiError, NobodyAnswered
from launch.errors import BrokerError, BrokerUnavailable, NotPermitted
from launch.ports import Broker

if TYPE_CHECKING:
    from launch.login import Credentials

MIN_SERVER = MIN_VERSION
FIXED = streams.FIXED
_ASK_LIMIT_S = 2.0
_NO_STREAM = "launch-doctor-no-such-stream"
"""What a probing publish says to expect: the server then stores nothing, and says so."""

Drift = dict[str, tuple[Any, Any]]


class Look:
    """One connection for looking. Get it with `open`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.broker: Broker = NatsBroker(connection, ack_wait_s=DEFAULT_ACK_WAIT_S, replicas=1)

    @classmethod
    async def open(cls, url: str, *, credentials: Credentials | None) -> Self:
        """Connect. Raises `BrokerUnavailable`."""
        connection = Connection(url)
        await connection.open(
            name="launch-doctor", credentials=credentials, timeout_s=CONNECT_TIMEOUT_S, any_server=True
        )
        return cls(connection)

    async def close(self) -> None:
        """Leave."""
        await self._connection.close()

    @property
    def version(self) -> tuple[int, int, int]:
        """The server's."""
        found = self._connection.client.connected_server_version
        return found.major, found.minor, found.patch

    async def jetstream(self) -> dict[str, Any]:
        """The account's use and limits. Raises `BrokerError` if JetStream is off, `BrokerUnavailable` if denied."""
        return await self._connection.api("INFO")

    async def user(self) -> str | None:
        """Who we are to the server; None if it does not tell."""
        try:
            answer = await self._connection.request("$SYS.REQ.USER.INFO", timeout_s=_ASK_LIMIT_S)
            found = json.loads(answer.data)["data"]
            return f"{found.get('user') or 'this user, without a name,'} of account {found['account']}"
        except (BrokerError, ValueError, LookupError, TypeError):
            return None

    async def ahead_s(self) -> float | None:
        """How far our clock is before the server's, give or take half a round trip; None if it does not tell."""
        for subject in ("$SYS.REQ.USER.INFO", f"$JS.API.STREAM.INFO.{subjects.bucket_stream(subjects.QUEUES_BUCKET)}"):
            asked = datetime.now(UTC)
            try:
                answer = await self._connection.request(subject, timeout_s=_ASK_LIMIT_S)
                found = json.loads(answer.data)
                theirs = parse_time(found.get("ts") or found["server"]["time"])
            except (BrokerError, ValueError, LookupError, TypeError, AttributeError):
                continue
            heard = datetime.now(UTC)
            return (asked + (heard - asked) / 2 - theirs).total_seconds()
        return None

    async def agent_ahead_s(self, agent_id: str) -> float | None:
        """How far an agent's clock was before the server's when it said its last word; None if it does not tell."""
        agents = subjects.AGENTS_BUCKET
        subject = f"{subjects.bucket_stream(agents)}.{subjects.bucket_subject(agents, agent_id)}"
        try:
            answer = await self._connection.request(f"$JS.API.DIRECT.GET.{subject}", timeout_s=_ASK_LIMIT_S)
            if status_of(answer):
                return None
            said = datetime.fromisoformat(json.loads(answer.data)["at"])
            return (said - parse_time(header_of(answer, "Nats-Time-Stamp"))).total_seconds()
        except (BrokerError, ValueError, LookupError, TypeError):
            return None

    async def drifts(self, queues: Sequence[str]) -> dict[str, Drift | None]:
        """By stream, each key that is not as it should be: what it is, and what it should be. None: no such stream.

        Object stores are left out where they are not there, or smaller: a server with little room has them so. So are
        streams that this user may not look at.
        """
        stores = streams.store_configs(1)
        configs = [
            *streams.base_configs(1),
            *stores,
            *(streams.work_stream_config(name, 1) for name in queues),
        ]
        small = {config["name"] for config in stores}
        found: dict[str, Drift | None] = {}
        for config in configs:
            name = config["name"]
            try:
                present = (await self._connection.api(f"STREAM.INFO.{name}"))["config"]
            except NotPermitted:
                continue
            except ApiError as error:
                if error.err_code != STREAM_NOT_FOUND:
                    raise
                if name not in small:
                    found[name] = None
                continue
            drift = streams.drift_of(present, config)
            if name in small:
                drift.pop("max_bytes", None)
            found[name] = {key: (present.get(key), wanted) for key, wanted in drift.items()}
        return found

    async def may_ask(self, subject: str) -> bool | None:
        """Whether this user may send a request of the JetStream API; None if that can't be told. Reads only."""
        return await self._allowed(f"$JS.API.{subject}", {})

    async def may_publish(self, subject: str) -> bool | None:
        """Whether this user may publish into the stream behind a subject; None if that can't be told.

        The publish expects another stream than there is, so that the server refuses to store it.
        """
        return await self._allowed(subject, {"Nats-Expected-Stream": _NO_STREAM})

    async def _allowed(self, subject: str, headers: dict[str, str]) -> bool | None:
        try:
            await self._connection.request(subject, headers=headers or None, timeout_s=_ASK_LIMIT_S)
        except NotPermitted:
            return False
        except NobodyAnswered:
            return True  # It came through; there is no such stream.
        except BrokerUnavailable:
            return None
        return True
