"""The metadata service of all machines: version 2 only, each machine at a path of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from aiohttp import web

from tests.support.ec2_faults import Ec2Instance

TOKEN = "a-token"


def answer(path: str, instance: Ec2Instance | None, taken_at: float | None) -> str | None:
    """What is at this path below `/latest/`; None for what is not there."""
    if instance is None:
        return None
    market = "spot" if instance.pool.market == "spot" else "on-demand"
    told = {
        "api/token": TOKEN,
        "meta-data/instance-id": instance.id,
        "meta-data/instance-type": instance.pool.instance_type or "",
        "meta-data/instance-life-cycle": market,
        "meta-data/placement/region": instance.region,
        "meta-data/placement/availability-zone": instance.pool.zone or "",
        "meta-data/local-hostname": f"ip-{instance.id[-4:]}.internal",
        "meta-data/local-ipv4": "127.0.0.1",
        "dynamic/instance-identity/document": json.dumps({"instanceId": instance.id, "region": instance.region}),
        "user-data": instance.user_data,
    }
    if taken_at is not None:
        at = datetime.fromtimestamp(taken_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told["meta-data/spot/instance-action"] = json.dumps({"action": "terminate", "time": at})
    return told.get(path.strip("/"))


class Server:
    """Listens for the machines' agents; `address` is what one of them is told."""

    def __init__(self, taken_at: Callable[[str], float | None], instance: Callable[[str], Ec2Instance | None]) -> None:
        self._taken_at = taken_at
        self._instance = instance
        self._runner: web.AppRunner | None = None
        self._url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{machine}/latest/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self._url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def address(self, instance_id: str) -> str:
        """Where one machine asks."""
        return f"{self._url}/{instance_id}"

    async def _serve(self, request: web.Request) -> web.Response:
        machine, path = request.match_info["machine"], request.match_info["path"]
        asks_token = path == "api/token"
        if (request.method == "PUT") != asks_token:
            return web.Response(status=405)
        if not asks_token and request.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return web.Response(status=401)
        found = answer(path, self._instance(machine), self._taken_at(machine))
        return web.Response(status=404) if found is None else web.Response(text=found)
