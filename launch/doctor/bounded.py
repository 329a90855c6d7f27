"""Runs one check: within a limit, and with every error as a finding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable

from launch.core.doctor import Finding, fail
from launch.errors import LaunchError

CHECK_LIMIT_S = 10.0
CLOSE_LIMIT_S = 3.0


async def bounded(
    check: str, look: Awaitable[Iterable[Finding]], *, cure: str, limit_s: float = CHECK_LIMIT_S
) -> list[Finding]:
    """What `look` finds; if it can't, a fail with the error's own hint, or else `cure`."""
    try:
        async with asyncio.timeout(limit_s):
            return list(await look)
    except LaunchError as error:
        return [fail(check, error.message, error.hint or cure)]
    except TimeoutError:
        return [fail(check, f"no answer within {limit_s:g} s", cure)]
    except Exception as error:  # noqa: BLE001  (whatever a check meets must not hide the others)
        text = " ".join(str(error).split())
        return [fail(check, f"{type(error).__name__}: {text}" if text else type(error).__name__, cure)]


async def closed(closing: Awaitable[None]) -> None:
    """Let go of what was looked at; what does not let go in time is left to the process's end."""
    with contextlib.suppress(LaunchError, TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await closing
