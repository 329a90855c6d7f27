"""Lossy hints of the fake broker: what is sent to a subject while nobody listens is gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from tests.fakes.broker_link import Link, LossyInbox
from tests.fakes.broker_server import ServerState


async def hear(server: ServerState, link: Link, subject: str) -> AsyncGenerator[Any]:
    """What is sent to `subject`; None first and after every reconnect."""
    await link.until_up()
    inbox: LossyInbox[Any] = LossyInbox(link)
    with server.subscribed(subject, inbox.put), link.listening(inbox.link_moved):
        while True:
            yield await inbox.get()
