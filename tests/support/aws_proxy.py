"""AWS with its troubles: a proxy in front of moto that adds what moto lacks of EC2, and whatever can go wrong with it.

Invariant: a launch with a token that was seen before starts nothing, and every instance that ever existed is in
`instances`, whatever its callers were told. Other services pass through untouched, unless `refuse` names their calls.
"""

from __future__ import annotations

import io
import time
from functools import partial
from typing import Self
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from tests.support import ec2_wire as wire
from tests.support.ec2_call import Answer, Ec2Call, Refused
from tests.support.ec2_faults import Call, Faults
from tests.support.ec2_world import Ec2World

_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_HOP = frozenset({"host", "content-length", "connection", "transfer-encoding", "content-encoding", "accept-encoding"})


class AwsProxy(Ec2World):
    """One proxy; `url` is what stands in the place of moto's. Runs in the test's event loop."""

    def __init__(self, target: str, *, faults: Faults | None = None) -> None:
        super().__init__(faults)
        self.url = ""
        self._target = target
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner, self.url = await _listen(self.serve)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    # -- what AWS and instances do by themselves -------------------------------------------------------------------

    async def lose(self, instance_id: str) -> None:
        """AWS takes a spot instance back."""
        why = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
        await self._end_itself(instance_id, "spot loss", why)

    async def shut_down(self, instance_id: str) -> None:
        """The instance shuts itself down, which ends it if it was launched so."""
        why = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
        await self._end_itself(instance_id, "shutdown", why)

    # -- serving ----------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request of any service."""
        at = time.time()
        body = await request.read()
        region, service = wire.scope(request.headers.get("Authorization", ""))
        if service != "ec2":
            action = _other_action(request, body)
            if refusal := self.refusal(action):
                self.note(Call(at, action, refusal.code))
                return web.json_response(
                    {"__type": refusal.code, "message": refusal.message},
                    status=refusal.status,
                    headers={"x-amzn-ErrorType": refusal.code},
                )
            return _response(await self._forward(request.method, request.path_qs, body, _passed(request)))
        parameters = wire.form(body) or dict(request.query)
        call = Ec2Call(self, partial(self._ask_moto, region), parameters, region, at)
        try:
            return _response(await call.run())
        except Refused as no:
            self.note(call.entry(no.code or no.message))
            if no.code:
                return web.Response(body=wire.error(no.code, no.message), status=no.status, content_type="text/xml")
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)

    async def _forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        assert self._session is not None
        async with self._session.request(
            method, self._target + path, data=io.BytesIO(body) if body else None, headers=headers, allow_redirects=False
        ) as answer:
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP | {"date", "server"}}
            if encoding := answer.headers.get("Content-Encoding"):
                kept["Content-Encoding"] = encoding
            return Answer(answer.status, await answer.read(), kept)

    async def _ask_moto(self, region: str, parameters: dict[str, str]) -> Answer:
        headers = {"Authorization": wire.signature(region), "Content-Type": _FORM}
        return await self._forward("POST", "/", urlencode(parameters).encode(), headers)

    async def _end_itself(self, instance_id: str, action: str, why: tuple[str, str]) -> None:
        instance = self.instances[instance_id]
        if not instance.live:
            return
        self.end(instance, why)
        self.note(Call(time.time(), action, "ok", instances=(instance_id,), tags=instance.tags))
        parameters = {"Action": "TerminateInstances", "Version": "2016-11-15", "InstanceId.1": instance_id}
        await self._ask_moto(instance.region, parameters)


class Regions:
    """One address for several proxies, each of a region of its own: clients of one process are told apart by that."""

    def __init__(self) -> None:
        self.url = ""
        self.proxies: dict[str, AwsProxy] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner, self.url = await _listen(self._serve)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        region, _ = wire.scope(request.headers.get("Authorization", ""))
        proxy = self.proxies.get(region)
        return web.Response(status=503) if proxy is None else await proxy.serve(request)


async def _listen(handler: Handler) -> tuple[web.AppRunner, str]:
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


def _other_action(request: web.Request, body: bytes) -> str:
    """The name of a call of another service; empty for those that are named by method and path."""
    if target := request.headers.get("X-Amz-Target"):
        return target.rpartition(".")[2]
    return wire.form(body).get("Action", "") if "x-www-form-urlencoded" in request.content_type else ""


def _passed(request: web.Request) -> dict[str, str]:
    kept = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
    if "aws-chunked" in request.headers.get("Content-Encoding", ""):
        kept["Content-Encoding"] = "aws-chunked"
    return kept


def _response(answer: Answer) -> web.Response:
    return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
