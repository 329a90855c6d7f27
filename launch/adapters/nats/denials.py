"""What this user may not do: the server says so beside the answer that never comes, and whoever waits is told here.

nats-server reports a denied publish or subscription as an error of the connection; the request itself gets no answer
and would run into its timeout. Here each waiting caller is named the subject, at once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from launch.errors import NotPermitted

KEPT = 1000
"""So many denied subscriptions are remembered."""

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)
_HINT = "use credentials of a role that may, or give this user that role: see docs/security.md, NATS roles"

Told = Callable[[NotPermitted], None]


class Denials:
    """Brings each denial to who asked for it. Subjects are compared without case: the client lowers the error's."""

    def __init__(self) -> None:
        self._publishing: dict[str, set[Told]] = {}
        self._subscribed: dict[str, None] = {}

    def note(self, error: Exception, inbox: str) -> bool:
        """Take an error of the connection; whether it is a denial that somebody waits for.

        `inbox` is the prefix of our inboxes: with those denied, nothing that was asked for can be answered.
        """
        match = _DENIED.search(str(error))
        if match is None:
            return False
        kind, subject = match[1].lower(), match[2].lower()
        if kind == "publish":
            told = tuple(self._publishing.get(subject, ()))
            found = may_not("publish on", match[2])
        elif subject.startswith(f"{inbox}.".lower()):
            told = tuple(one for waiting in self._publishing.values() for one in waiting)
            found = NotPermitted(
                f"this user may not subscribe to its own inbox {inbox}.>, and so can't hear answers",
                hint="NATS_INBOX_PREFIX names the prefix that the user may use, such as _INBOX.<user>",
            )
        else:
            if len(self._subscribed) >= KEPT:
                self._subscribed.pop(next(iter(self._subscribed)))
            self._subscribed[subject] = None
            return True
        for one in told:
            one(found)
        return bool(told)

    @contextlib.contextmanager
    def publishing(self, subject: str, told: Told) -> Iterator[None]:
        """Call `told` when a publish on `subject` is denied, within this block."""
        key = subject.lower()
        self._publishing.setdefault(key, set()).add(told)
        try:
            yield
        finally:
            waiting = self._publishing[key]
            waiting.discard(told)
            if not waiting:
                del self._publishing[key]

    def subscribing(self, subject: str) -> None:
        """Forget an earlier denial: it is tried again."""
        self._subscribed.pop(subject.lower(), None)

    def check(self, subject: str) -> None:
        """After the server has taken in a subscription: raises `NotPermitted` if it denied it."""
        if subject.lower() in self._subscribed:
            raise may_not("subscribe to", subject)


def may_not(verb: str, subject: str) -> NotPermitted:
    """What is said of a denied subject."""
    return NotPermitted(f"this user may not {verb} {subject}", hint=_HINT)
