"""Which git commit a folder is at, and whether it differs from it: a note on a job's code, never a reason to fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 10.0
"""What one call of git may take; a work tree where it takes longer is left without a note."""


@dataclass(frozen=True, slots=True)
class GitState:
    """`commit` is None where the folder is in no commit; `dirty` is None where that can't be told."""

    commit: str | None = None
    dirty: bool | None = None


async def git_state(folder: Path) -> GitState:
    """The state of `folder` alone, also of one within a work tree. Where there is no git or no commit: nothing."""
    try:
        commit, _ = await _git(folder, "rev-parse", "--verify", "HEAD^{commit}")
        if not re.fullmatch(r"[0-9a-f]{40,64}", commit.strip()):
            return GitState()
        # A folder that git ignores lies in the work tree, but in no commit.
        ignored, _ = await _git(folder, "check-ignore", "--", ".")
        if ignored:
            return GitState()
    except (OSError, TimeoutError):
        return GitState()
    try:
        changes, answered = await _git(folder, "status", "--porcelain", "--untracked-files=normal", "--", ".")
    except (OSError, TimeoutError):
        return GitState(commit.strip())
    return GitState(commit.strip(), bool(changes) if answered else None)


async def _git(folder: Path, *args: str) -> tuple[str, bool]:
    """The first bytes of what git says, and whether it said them or ended well.

    Raises `OSError` without git, and `TimeoutError`.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    process = await asyncio.create_subprocess_exec(
        "git",
        "-c",
        "core.fsmonitor=false",  # a repository may name a program there
        *args,
        cwd=folder,
        env={**env, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            # A list of changes may be long; its first bytes tell enough.
            said = await process.stdout.read(256) if process.stdout else b""
            return said.decode(errors="replace"), bool(said) or await process.wait() == 0
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
