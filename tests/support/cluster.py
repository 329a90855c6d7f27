"""Three nats-servers that are one cluster: streams with three copies outlive any one of them.

Each server is a `NatsServer`; the cluster only knows their routes. The invariant is theirs: `start` returns once
streams can have a copy on every server, and what is started is ended by its own handle.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any, Self

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from tests.support.nats_server import NatsServer

SIZE = 3
LEADER_LIMIT_S = 60.0
_LOOK_S = 0.1


class Cluster:
    """Servers `n1` to `n3`, each with its own port and store, kept over restarts."""

    def __init__(self, folder: Path) -> None:
        routes = _free_ports(SIZE)
        listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers: dict[str, NatsServer] = {}
        for number, port in enumerate(routes, start=1):
            config = (
                f'server_name: "n{number}"\n'
                f'cluster {{ name: "test", listen: "127.0.0.1:{port}", routes: [{listed}] }}\n'
            )
            self.servers[f"n{number}"] = NatsServer(folder / f"n{number}", config=config)

    @property
    def url(self) -> str:
        """The addresses of all servers."""
        return ",".join(server.url for server in self.servers.values())

    async def start(self) -> Self:
        """Start every server that does not run; returns once all of them can store a stream together."""
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers.values()))
        async with asyncio.timeout(LEADER_LIMIT_S):
            for server in self.servers.values():
                await _until_whole(server.url)
        return self

    async def stop(self) -> None:
        """End every server."""
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self.servers.values()))

    async def kill(self, name: str) -> None:
        """Take one server away without a goodbye."""
        await asyncio.to_thread(self.servers[name].stop, kill=True)


async def consumer_info(client: NatsClient, stream: str, consumer: str) -> dict[str, Any]:
    """What the servers say of a consumer: `cluster.leader`, `num_ack_pending`, `num_redelivered` and more."""
    answer = await client.request(f"$JS.API.CONSUMER.INFO.{stream}.{consumer}", timeout=5)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def _until_whole(url: str) -> None:
    """Make a stream with a copy everywhere, as seen from one server, and take it away again."""
    client = NatsClient()
    await client.connect(url)
    config = {"name": "whole", "subjects": ["whole"], "storage": "memory", "num_replicas": SIZE}
    try:
        for step, body in (("CREATE", json.dumps(config).encode()), ("DELETE", b"")):
            while True:
                try:
                    answer = json.loads((await client.request(f"$JS.API.STREAM.{step}.whole", body, timeout=2)).data)
                except NatsError:
                    answer = {"error": "nobody answered"}
                if "error" not in answer:
                    break
                await asyncio.sleep(_LOOK_S)  # there is nothing to wait on: an election announces itself to nobody
    finally:
        await client.close()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment; routes must be known before the servers start."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports
