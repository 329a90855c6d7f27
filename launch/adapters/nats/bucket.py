"""One KV bucket: get, compare-and-set, expiry, history, watch. Bytes in, bytes out."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from launch import subjects
from launch.adapters.nats.connection import Connection, header_of
from launch.adapters.nats.failures import (
    MESSAGE_NOT_FOUND,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    ApiError,
)
from launch.adapters.nats.reader import read_stream
from launch.errors import Conflict
from launch.ports import SYNCED, Synced

REVISIONS = 5
"""About how many a key has, where the last few keys are looked for."""
READ_AHEAD = 500
_EXPECT = "Nats-Expected-Last-Subject-Sequence"
_OPERATION = "KV-Operation"
_MARKER = "Nats-Marker-Reason"
_ROLLUP = "Nats-Rollup"


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision of a key; `value` is None if that revision deleted it (or records its expiry).

    `note` is what the deleter left with the deletion.
    """

    key: str
    value: bytes | None
    revision: int
    note: bytes = b""


class Bucket:
    """A bucket by name. A bucket that does not exist reads as empty."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._stream = subjects.bucket_stream(name)
        self._name = name

    def _subject(self, key: str) -> str:
        return subjects.bucket_subject(self._name, key)

    async def latest(self, key: str) -> Entry | None:
        """The newest revision of a key, a deletion included; None if there never was one."""
        try:
            answer = await self._connection.direct_get(self._stream, self._subject(key), what="read a key")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        if answer is None:
            return None
        return self._entry(answer, header_of(answer, "Nats-Subject"), int(header_of(answer, "Nats-Sequence")))

    async def get(self, key: str) -> Entry | None:
        """The present value of a key, or None."""
        entry = await self.latest(key)
        return entry if entry is not None and entry.value is not None else None

    async def put(self, key: str, value: bytes, *, ttl_s: float | None = None) -> int:
        """Set a key whatever it was; returns the revision."""
        return await self._write(key, value, {} if ttl_s is None else _ttl(ttl_s))

    async def create(self, key: str, value: bytes, *, ttl_s: float | None = None) -> int:
        """Set a key that has no value. Raises `Conflict`."""
        ttl = {} if ttl_s is None else _ttl(ttl_s)
        try:
            return await self._write(key, value, {_EXPECT: "0", **ttl})
        except Conflict:
            last = await self.latest(key)
            if last is None or last.value is not None:
                raise
            return await self._write(key, value, {_EXPECT: str(last.revision), **ttl})

    async def update(self, key: str, value: bytes, revision: int, *, ttl_s: float | None = None) -> int:
        """Set a key if its newest revision is `revision`. Raises `Conflict`."""
        return await self._write(key, value, {_EXPECT: str(revision), **({} if ttl_s is None else _ttl(ttl_s))})

    async def delete(
        self, key: str, *, revision: int | None = None, note: bytes = b"", ttl_s: float | None = None
    ) -> None:
        """Delete a key (if its newest revision is `revision`). Raises `Conflict`.

        The mark of the deletion, with `note`, stays for `ttl_s` (in an expiring bucket only), else for ever.
        """
        expected = {} if revision is None else {_EXPECT: str(revision)}
        ttl = {} if ttl_s is None else _ttl(ttl_s)
        await self._write(key, note, {_OPERATION: "PURGE", _ROLLUP: "sub", **expected, **ttl})

    async def purge(self, keys: str) -> None:
        """Remove every revision of the keys that match, without a trace."""
        await self._connection.api(f"STREAM.PURGE.{self._stream}", {"filter": self._subject(keys)})

    async def all(self, keys: str = ">") -> list[Entry]:
        """The present values of the keys that match, in the order of their last change."""
        return [e async for e in self.watch(keys, follow=False) if not isinstance(e, Synced) and e.value is not None]

    async def recent(self, keys: str, count: int) -> tuple[list[Entry], bool]:
        """The `count` present values that changed last, in the order of that change; and whether there are more.

        Read from the end, in steps that grow: a bucket may keep many revisions of a key, or have few that match.
        """
        state = await self._state()
        if state is None or not state["messages"]:
            return [], False
        found: dict[str, Entry] = {}
        end = math.inf
        begin, step = state["last_seq"], count * REVISIONS
        while begin >= state["first_seq"] and sum(e.value is not None for e in found.values()) <= count:
            begin = max(state["first_seq"] - 1, begin - step)
            found = await self._between(keys, begin, end) | found
            end, step = begin + 1, step * 4
        present = sorted((e for e in found.values() if e.value is not None), key=lambda e: e.revision)
        return present[max(0, len(present) - count) :], len(present) > count

    async def _between(self, keys: str, after_seq: int, before_seq: float) -> dict[str, Entry]:
        """The newest revision of each key that changed between the two."""
        found: dict[str, Entry] = {}
        stream = read_stream(
            self._connection, self._stream, self._subject(keys), after_seq=after_seq, follow=False, batch=READ_AHEAD
        )
        async with aclosing(stream) as messages:
            async for msg in messages:
                if isinstance(msg, Synced) or (seq := msg.metadata.sequence.stream) >= before_seq:
                    break
                entry = self._entry(msg, msg.subject, seq)
                found[entry.key] = entry
        return found

    async def history(self, key: str) -> list[Entry]:
        """The kept revisions of one key, oldest first."""
        stream = read_stream(self._connection, self._stream, self._subject(key), after_seq=0, follow=False)
        return [
            self._entry(msg, msg.subject, msg.metadata.sequence.stream)
            async for msg in stream
            if not isinstance(msg, Synced)
        ]

    async def watch(self, keys: str = ">", *, follow: bool = True) -> AsyncGenerator[Entry | Synced]:
        """Present values, `SYNCED`, then changes (deletions and expiries too)."""
        synced = False
        stream = read_stream(self._connection, self._stream, self._subject(keys), after_seq=None, follow=follow)
        try:
            async for msg in stream:
                if isinstance(msg, Synced):
                    synced = True
                    yield SYNCED
                    continue
                entry = self._entry(msg, msg.subject, msg.metadata.sequence.stream)
                if synced or entry.value is not None:
                    yield entry
        finally:
            await stream.aclose()

    def _entry(self, msg: Msg, subject: str, revision: int) -> Entry:
        gone = header_of(msg, _OPERATION) in ("DEL", "PURGE") or bool(header_of(msg, _MARKER))
        key = subject.removeprefix(self._subject(""))
        return Entry(key, None, revision, msg.data) if gone else Entry(key, msg.data, revision)

    async def _write(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        try:
            ack = await self._connection.publish_stored(self._subject(key), value, headers=headers)
        except ApiError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"{self._name} {key}: somebody else changed it first") from error
            raise
        return int(ack["seq"])

    async def _state(self) -> dict[str, Any] | None:
        """The state of the stream behind it, None if there is none."""
        try:
            state: dict[str, Any] = (await self._connection.api(f"STREAM.INFO.{self._stream}"))["state"]
        except ApiError as error:
            if error.err_code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                return None
            raise
        return state


def _ttl(ttl_s: float) -> dict[str, str]:
    return {subjects.HEADER_TTL: f"{max(1, math.ceil(ttl_s))}s"}
