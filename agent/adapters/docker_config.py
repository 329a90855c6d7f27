"""Docker's own logins: `config.json` (in DOCKER_CONFIG, or ~/.docker), and the helper programs that it names.

Read anew for each pull, so that a `docker login` counts from then on. As with Docker a registry's own helper is asked
first, then the store for all, then what is in the file. A helper is waited for a bounded time. Whatever is wrong with
any of these is told in the agent's log and in the trouble that a failed pull names; it never ends the agent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from agent.core.registry_login import DockerLogins, parse_docker_config, parse_helper_answer
from agent.ports import Login

HELPER_LIMIT_S = 15.0
MAX_FILE_BYTES = 1024**2

_log = structlog.get_logger(__name__)


class DockerConfig:
    """A `agent.ports.LoginSource`."""

    def __init__(self, environ: Mapping[str, str] = os.environ, *, helper_limit_s: float = HELPER_LIMIT_S) -> None:
        folder = environ.get("DOCKER_CONFIG")
        self.path = (
            Path(folder) if folder else Path(environ.get("HOME") or "~").expanduser() / ".docker"
        ) / "config.json"
        self._environ = environ
        self._helper_limit_s = helper_limit_s

    async def login(self, registry: str) -> Login | None:
        logins = await asyncio.to_thread(self._read)
        for warning in logins.warnings:
            _log.warning("Docker's logins can't all be read", file=str(self.path), what=warning)
        troubles = [f"{self.path} {warning}" for warning in logins.warnings]
        for helper, name in logins.asked(registry):
            program = f"docker-credential-{helper}"
            try:
                credential = parse_helper_answer(await self._run(program, name))
            except (ValueError, OSError) as error:
                _log.warning(
                    "a helper for registries' passwords failed", program=program, registry=registry, error=str(error)
                )
                troubles.append(f"{program} {error}")
                continue
            if credential is not None:
                return Login(credential, program)
        if registry in logins.auths:
            return Login(logins.auths[registry], str(self.path))
        return Login(None, str(self.path), "; ".join(troubles)) if troubles else None

    async def close(self) -> None:
        pass

    def _read(self) -> DockerLogins:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                return DockerLogins(warnings=("is larger than 1 MiB",))
            return parse_docker_config(data.decode())
        except (FileNotFoundError, NotADirectoryError):
            return DockerLogins()
        except UnicodeDecodeError:
            return DockerLogins(warnings=("is no UTF-8 text",))
        except OSError as error:
            return DockerLogins(warnings=(f"can't be read: {error.strerror}",))

    async def _run(self, program: str, name: str) -> str:
        """What the helper says of a registry. Raises `ValueError` or `OSError` with what is wrong, never its output."""
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=dict(self._environ),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ValueError("is not installed where the agent runs") from None
        except OSError as error:
            raise ValueError(f"can't be started: {error.strerror}") from None
        try:
            async with asyncio.timeout(self._helper_limit_s):
                output, _ = await process.communicate(name.encode())
                code = process.returncode
        except TimeoutError:
            raise ValueError(f"did not answer within {self._helper_limit_s:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode(errors="replace")
        if code and "credentials not found" not in text:
            raise ValueError(f"failed with exit code {code}")
        return text
