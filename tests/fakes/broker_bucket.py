"""A KV bucket as JetStream keeps it: revisions, history, compare-and-set, expiry that watchers see, ordered watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeVar

from launch.errors import Conflict
from launch.ports import SYNCED, Changed, Synced
from tests.fakes.broker_link import Inbox, Link

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision of a key; `value` is None for the mark that a deletion or an expiry leaves."""

    key: str
    value: bytes | None
    revision: int


class Bucket:
    """Keys with values, the last `history` of each."""

    def __init__(self, history: int = 1) -> None:
        self._history = history
        self._revision = 0
        self._entries: dict[str, list[Entry]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._watchers: dict[Callable[[Entry], None], None] = {}  # in the order in which they came, each time

    def get(self, key: str) -> Entry | None:
        """The present entry, if the key has a value."""
        entries = self._entries.get(key)
        return entries[-1] if entries and entries[-1].value is not None else None

    def current(self) -> list[Entry]:
        """Every key that has a value, in the order in which they were written."""
        found = [entries[-1] for entries in self._entries.values() if entries[-1].value is not None]
        return sorted(found, key=lambda entry: entry.revision)

    def history(self, key: str) -> list[bytes]:
        """The values kept for a key, oldest first."""
        return [entry.value for entry in self._entries.get(key, []) if entry.value is not None]

    def put(self, key: str, value: bytes | None, *, ttl_s: float | None = None) -> int:
        """Write whatever stood there before; returns the revision."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._revision += 1
        entry = Entry(key, value, self._revision)
        kept = self._entries.setdefault(key, [])
        kept.append(entry)
        del kept[: -self._history]
        if value is not None and ttl_s is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(ttl_s, self.put, key, None)
        for watcher in list(self._watchers):
            watcher(entry)
        return self._revision

    def create(self, key: str, value: bytes, *, ttl_s: float | None = None) -> int:
        """Write if the key has no value. Raises `Conflict`."""
        found = self.get(key)
        if found is not None:
            raise Conflict(f"'{key}' exists already, at revision {found.revision}")
        return self.put(key, value, ttl_s=ttl_s)

    def update(self, key: str, value: bytes | None, revision: int, *, ttl_s: float | None = None) -> int:
        """Write if the key's revision is still `revision`. Raises `Conflict`."""
        found = self.get(key)
        if found is None or found.revision != revision:
            have = "it is gone" if found is None else f"it is at revision {found.revision}"
            raise Conflict(f"'{key}' is not at revision {revision} any more: {have}")
        return self.put(key, value, ttl_s=ttl_s)

    def purge(self, wanted: Callable[[str], bool]) -> None:
        """Remove every revision of these keys, without a trace."""
        for key in [key for key in self._entries if wanted(key)]:
            del self._entries[key]

    async def watch(
        self, link: Link, *, wanted: Callable[[str], bool], name: Callable[[str], str], decode: Callable[[bytes], T]
    ) -> AsyncGenerator[Changed[T] | Synced]:
        """What exists of the `wanted` keys, `SYNCED`, then every change; stands still while the connection is down."""
        inbox: Inbox[Entry] = Inbox(link)

        def hear(entry: Entry) -> None:
            if wanted(entry.key):
                inbox.put(entry)

        def change(entry: Entry) -> Changed[T]:
            return Changed(name(entry.key), None if entry.value is None else decode(entry.value), entry.revision)

        await link.until_up()
        for entry in self.current():
            hear(entry)
        existing = len(inbox)
        self._watchers[hear] = None
        try:
            with link.listening(inbox.link_moved):
                for _ in range(existing):
                    yield change(await inbox.get())
                yield SYNCED
                while True:
                    yield change(await inbox.get())
        finally:
            self._watchers.pop(hear, None)
