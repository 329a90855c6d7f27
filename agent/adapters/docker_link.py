"""A connection to the Docker Engine, made on first use and after every break; every vendor error is translated here.

The pool has no limit on connections, since each running job keeps two open for its whole life; a limit would make
every other call hang once it is reached. What is asked of the engine is in `docker.py`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from agent.adapters.docker_answers import message_of
from agent.ports import EngineError, EngineUnavailable
from launch.errors import LaunchError

DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
CONNECT_LIMIT_S: Final = 10.0
LOOK_LIMIT_S: Final = 30.0
"""For calls that only read the engine's memory."""
CHANGE_LIMIT_S: Final = 120.0
"""For calls that touch disks, namespaces and cgroups; a loaded machine takes its time."""
NOT_FOUND: Final = 404
CONFLICT: Final = 409
SERVER_ERROR: Final = 500
_UNAVAILABLE = 503
_CANNOT_CONNECT = 900
"""aiodocker's own number for an engine that does not answer."""
_PLAIN = {"Accept-Encoding": "identity"}
"""Asked for nothing, aiohttp offers to take gzip, and the engine then packs every archive that it hands out, at a sixth
of the speed."""

Parameters = Mapping[str, str] | Sequence[tuple[str, str]]


class EngineLink:
    """One engine's address, and how it is asked."""

    def __init__(self, host: str | None = None) -> None:
        """`host` is `unix://PATH` or `tcp://HOST:PORT`; None means DOCKER_HOST, or else the usual socket."""
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        _check_host(self.host)
        self._docker: Docker | None = None
        self._plain: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Release the connection. Idempotent."""
        docker, self._docker = self._docker, None
        plain, self._plain = self._plain, None
        if plain is not None:
            await plain.close()
        if docker is not None:
            await docker.close()
            await docker.connector.close()

    @asynccontextmanager
    async def _stream(
        self, step: str, method: str, path: str, parameters: Parameters, **more: Any
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A request whose answer lasts; left at any time, its connection is closed (and the engine notices)."""
        with self._translated(step):
            response = await self._send(method, path, parameters, **more)
        try:
            if not response.ok:
                with self._translated(step):
                    raise DockerError(response.status, message_of(await response.text()))
            yield response.content
        finally:
            # Not released to the pool: a stream that was left early still has an answer coming.
            response.close()

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, parameters: Mapping[str, str], **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is read at once; unlike a stream's, its connection is used again."""
        async with await self._send(method, path, parameters, **more) as response:
            yield response

    async def _send(
        self,
        method: str,
        path: str,
        parameters: Parameters,
        *,
        unframed: bool = False,
        headers: Mapping[str, str] = {},
        **more: Any,
    ) -> aiohttp.ClientResponse:
        """One request. `unframed`: with an answer that just ends, whether it is complete or the connection broke.

        Without that the engine sends a followed log in HTTP chunks of one line each, and taking those apart costs more
        than all that is done with the lines.
        """
        docker = self._client()
        if docker.api_version == "auto":
            await docker.version()
        url = f"{docker.docker_host}/{docker.api_version}/{path}"
        session = self._unframed(docker) if unframed else docker.session
        return await session.request(method, url, params=parameters, headers={**_PLAIN, **headers}, **more)

    def _unframed(self, docker: Docker) -> aiohttp.ClientSession:
        if self._plain is None:
            version, timeout = aiohttp.HttpVersion10, aiohttp.ClientTimeout(sock_connect=CONNECT_LIMIT_S)
            connector = docker.connector
            self._plain = aiohttp.ClientSession(
                connector=connector, connector_owner=False, version=version, timeout=timeout
            )
        return self._plain

    def _client(self) -> Docker:
        """The client, made when first needed because a connector belongs to a running loop.

        With an address of its own it reads neither the CLI's contexts nor `~/.docker/config.json`, which may be
        malformed.
        """
        if self._docker is None:
            parts = urlsplit(self.host)
            connector: aiohttp.BaseConnector
            if parts.scheme == "unix":
                url, connector = "http://docker", aiohttp.UnixConnector(path=parts.path, limit=0)
            else:
                url, connector = f"http://{parts.netloc}", aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_LIMIT_S)
            self._docker = Docker(url, connector=connector, timeout=timeout)
        return self._docker

    @contextmanager
    def _translated(self, step: str, *, ignore: tuple[int, ...] = ()) -> Iterator[None]:
        """Turn what aiodocker, aiohttp and asyncio raise into the port's two errors; swallow statuses in `ignore`."""
        try:
            yield
        except DockerError as error:
            if error.status in ignore:
                return
            if error.status in (_CANNOT_CONNECT, _UNAVAILABLE):
                raise self._unavailable(step, error.message) from error
            # Errors inside a progress stream carry no status of their own.
            raise EngineError(step, error.status or SERVER_ERROR, error.message) from error
        except TimeoutError as error:
            raise self._unavailable(step, "no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(step, str(error) or type(error).__name__) from error
        except (ValueError, LookupError) as error:
            raise self._unavailable(step, f"an answer that makes no sense ({error!r})") from error

    def _unavailable(self, step: str, what: str) -> EngineUnavailable:
        hint = "is the Docker Engine running, and may this user reach it?"
        return EngineUnavailable(f"the engine at {self.host} can't {step}: {what}", hint=hint)


def _check_host(host: str) -> None:
    """Refuse an address that can't work, or would not be as private as asked for."""
    parts = urlsplit(host)
    if not ((parts.scheme == "unix" and parts.path) or (parts.scheme == "tcp" and parts.netloc)):
        raise LaunchError(f"'{host}' is not an engine's address", hint="unix:///path/to/socket or tcp://host:port")
    if parts.scheme == "tcp" and os.environ.get("DOCKER_TLS_VERIFY"):
        hint = "use a unix socket, forwarded over SSH if need be"
        raise LaunchError(f"TLS to an engine is not supported, and DOCKER_TLS_VERIFY asks for it at {host}", hint=hint)
