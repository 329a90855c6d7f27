"""Imports the vendor's client without aiohttp, which it needs for websockets only, and which takes as long as the rest.

Whoever uses a websocket, by this package or by nats-py itself, gets aiohttp at that moment.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

_LATER = ("aiohttp", "multidict")


class _NotNow:
    """A finder that hides modules from one thread; every other thread's imports go on as ever."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, *_: Any) -> None:
        """Leave it to the next finder. Raises `ImportError` for what is hidden."""
        if name in _LATER and threading.get_ident() == self._thread:
            raise ImportError(f"{name} is imported when it is needed", name=name)


class _Later:
    """A module that is imported when something of it is asked for, and then takes this one's place in its user."""

    def __init__(self, name: str, user: ModuleType) -> None:
        self._name = name
        self._user = user

    def __getattr__(self, attribute: str) -> Any:
        module = importlib.import_module(self._name)
        setattr(self._user, self._name, module)
        return getattr(module, attribute)


def _import_client() -> None:
    """Import nats-py, unless somebody has already."""
    if "nats" in sys.modules:
        return
    hidden = _NotNow()
    sys.meta_path.insert(0, hidden)
    try:
        from nats.aio import transport
    finally:
        sys.meta_path.remove(hidden)
    for name in _LATER:
        if getattr(transport, name) is None:
            setattr(transport, name, _Later(name, transport))


_import_client()
