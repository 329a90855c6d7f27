"""The Docker Engine, spoken to with the standard library alone: whether it answers, and what a test left in it.

Owns no state of the engine. It is deliberately not the client under test, so that what a test looks at is not what
the product believes. Every call has a timeout.
"""

import http.client
import json
import os
import socket
from typing import Any
from urllib.parse import quote, urlencode

DEFAULT_HOST = "unix:///var/run/docker.sock"
CALL_LIMIT_S = 30.0


class EngineError(RuntimeError):
    """The engine does not answer, or refused a call; one line."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def docker_host() -> str:
    """Return the engine's address: DOCKER_HOST, or the usual socket."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_HOST


def call(
    method: str, path: str, query: dict[str, str] | None = None, *, timeout_s: float = CALL_LIMIT_S
) -> tuple[int, bytes]:
    """Make one request of the engine; return the status and the whole body."""
    host = docker_host()
    connection: http.client.HTTPConnection
    if host.startswith("unix://"):
        connection = _UnixConnection(host.removeprefix("unix://"), timeout_s)
    else:
        connection = http.client.HTTPConnection(host.removeprefix("tcp://"), timeout=timeout_s)
    target = f"{path}?{urlencode(query)}" if query else path
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError as error:
        message = f"no Docker Engine answers at {host} ({error}): start one, or run the tests with make test"
        raise EngineError(message) from error
    finally:
        connection.close()


def get(path: str, **query: str) -> Any:
    """Return the parsed JSON of a GET; any status but 200 is an error."""
    status, body = call("GET", path, query)
    if status != http.client.OK:
        message = f"GET {path}: {status} {body.decode(errors='replace').strip()}"
        raise EngineError(message)
    return json.loads(body)


def require_engine() -> str:
    """Return the engine's address if it answers; raise one clear line if it does not."""
    call("GET", "/_ping", timeout_s=10.0)
    return docker_host()


def containers(label: str) -> list[dict[str, Any]]:
    """Return the containers, running or not, that carry a label (`key` or `key=value`)."""
    found = get("/containers/json", all="1", filters=json.dumps({"label": [label]}))
    return list(found)


def inspect(container: str) -> dict[str, Any]:
    """Return what the engine knows of one container."""
    return dict(get(f"/containers/{quote(container)}/json"))


def remove_containers(label: str) -> list[str]:
    """Remove every container that carries a label, running or not; return the ids removed."""
    removed = []
    for container in containers(label):
        status, body = call("DELETE", f"/containers/{container['Id']}", {"force": "1", "v": "1"})
        # 404 and 409: somebody else removed it, or is just doing so.
        if status not in (http.client.NO_CONTENT, http.client.NOT_FOUND, http.client.CONFLICT):
            message = f"could not remove container {container['Id'][:12]}: {status} {body.decode(errors='replace')}"
            raise EngineError(message)
        removed.append(container["Id"])
    return removed
