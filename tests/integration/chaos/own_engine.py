"""A Docker Engine of a test's own, to be stopped and started again beside the machine's.

It lives in a network namespace of its own (two engines in one would take each other's bridge away), which a holder
process keeps for as long as the engine is stopped. Only root can do this: elsewhere sudo is asked for.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

AS_ROOT = () if os.geteuid() == 0 else ("sudo", "--preserve-env")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
LOOK_S = 0.05


class OwnEngine:
    """One dockerd with its data in `folder`; made by `own_engine`."""

    def __init__(self, folder: Path, holder: Process) -> None:
        self.socket = folder / "d.sock"
        self.data = folder / "data"
        self._state = folder / "exec"
        self._folder = folder
        self._holder = holder
        self._process: Process | None = None

    @property
    def host(self) -> str:
        """The address, as DOCKER_HOST has it."""
        return f"unix://{self.socket}"

    def beside(self) -> list[str]:
        """The beginning of a command line that runs in the engine's network."""
        return [*AS_ROOT, "nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    async def start(self, *, live_restore: bool = False) -> None:
        """Start the engine; returns once it answers."""
        command = [*self.beside(), shutil.which("dockerd") or "/usr/sbin/dockerd", "--host", self.host]
        command += ["--data-root", str(self.data), "--exec-root", str(self._state)]
        command += ["--pidfile", str(self._folder / "pid"), "--group", str(os.getgid())]
        if live_restore:
            command.append("--live-restore")
        with (self._folder / "dockerd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        async with asyncio.timeout(START_LIMIT_S):
            while True:
                with suppress(OSError, http.client.HTTPException):
                    status, _ = await self.call("GET", "/_ping")
                    if status == http.client.OK:
                        return
                assert self._process.returncode is None, (self._folder / "dockerd.log").read_text()[-2000:]
                await asyncio.sleep(LOOK_S)  # a socket tells nobody that it answers

    async def stop(self) -> None:
        """Stop the engine in an orderly way; returns once it has ended."""
        if self._process is None or self._process.returncode is not None:
            return
        pid = (self._folder / "pid").read_text().strip()
        stopping = await asyncio.create_subprocess_exec(*AS_ROOT, "sh", "-c", f"kill -TERM {pid}")
        await stopping.wait()
        async with asyncio.timeout(STOP_LIMIT_S):
            await self._process.wait()

    async def load(self, image: str) -> None:
        """Give it an image of the machine's engine."""
        script = f"docker save {image} | docker --host {self.host} load"
        loading = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=asyncio.subprocess.DEVNULL)
        assert await loading.wait() == 0

    async def containers(self) -> list[dict[str, Any]]:
        """All its containers."""
        _, body = await self.call("GET", "/containers/json?all=1")
        return list(json.loads(body))

    async def call(self, method: str, path: str) -> tuple[int, bytes]:
        """One request."""
        return await asyncio.to_thread(self._call, method, path)

    def _call(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("docker", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(30)
        try:
            connection.sock.connect(str(self.socket))
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    async def clear(self) -> None:
        """Remove every container: with live-restore they would outlive the engine."""
        for container in await self.containers():
            await self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")


@asynccontextmanager
async def own_engine(folder: Path) -> AsyncIterator[OwnEngine]:
    """An engine that is not started yet; at the end it is stopped, and its containers and data are gone."""
    holder = await asyncio.create_subprocess_exec(
        *AS_ROOT, "unshare", "--net", "sh", "-c", "ip link set lo up; echo held; exec cat",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    engine = OwnEngine(folder, holder)
    try:
        yield engine
    finally:
        if not engine.socket.exists() and engine.data.exists():
            await engine.start()
        if engine.socket.exists():
            await engine.clear()
            await engine.stop()
        holder.stdin.close()
        await holder.wait()
        # An engine that means to leave containers running leaves its folder mounted on itself, too.
        script = 'if mountpoint -q "$1"; then umount "$1"; fi; rm -rf "$1" "$2"'
        state = str(folder / "exec")
        gone = await asyncio.create_subprocess_exec(*AS_ROOT, "sh", "-c", script, "sh", str(engine.data), state)
        await gone.wait()
