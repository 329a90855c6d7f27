"""One call of EC2: what faults it meets, what moto is asked, and how the answer is made what AWS would answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from tests.support import ec2_wire as wire
from tests.support.ec2_faults import Call, Ec2Instance, Pool
from tests.support.ec2_world import Ec2World

MAX_USER_DATA = 16384
_SHUT = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")


class Refused(Exception):
    """EC2 says no, or (without a code) nothing at all."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    headers: dict[str, str]


AskMoto = Callable[[dict[str, str]], Awaitable[Answer]]


class Ec2Call:
    """One call of EC2 on its way."""

    def __init__(self, world: Ec2World, moto: AskMoto, parameters: dict[str, str], region: str, at: float) -> None:
        self._world = world
        self._ask = moto
        self._given = parameters
        self._region = region
        self._at = at
        self._action = parameters.get("Action", "?")
        world.counts[self._action] += 1
        self._key = f"{self._action}/{world.counts[self._action]}"
        self._ids: tuple[str, ...] = ()
        self._started = False

    def entry(self, outcome: str) -> Call:
        """For the log."""
        launch = self._action == "RunInstances"
        return Call(
            self._at,
            self._action,
            outcome,
            token=self._given.get("ClientToken"),
            instances=self._ids,
            asked=int(self._given.get("MaxCount", "0")) if launch else 0,
            tags=wire.instance_tags(self._given) if launch else {},
            started=self._started,
        )

    async def run(self) -> Answer:
        """Answer it. Raises `Refused`."""
        world, faults = self._world, self._world.faults
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s * faults.draw("delay", self._key))
        if (gate := world.gates.get(self._action)) is not None:
            await gate.wait()
        if refusal := world.refusal(self._action):
            raise Refused(refusal.code, refusal.message, refusal.status)
        if self._strikes("throttled", faults.throttled):
            raise Refused("RequestLimitExceeded", "Request limit exceeded.", 503)
        changes = self._action in ("RunInstances", "TerminateInstances")
        if self._loses("lost request") or (changes and self._strikes("lost_request", faults.lost_request)):
            raise Refused("", "lost request")
        match self._action:
            case "RunInstances" if self._given.get("DryRun") != "true":
                answer = await self._run_instances()
            case "TerminateInstances":
                answer = await self._terminate()
            case "DescribeInstances":
                answer = await self._describe()
            case "GetConsoleOutput":
                answer = self._console()
            case _:
                answer = await self._moto(self._given)
        if self._loses("lost reply") or (changes and self._strikes("lost_reply", faults.lost_reply)):
            raise Refused("", "lost reply")
        world.note(self.entry("ok"))
        return answer

    def _strikes(self, kind: str, share: float) -> bool:
        return self._world.faults.chosen(kind, share, self._key)

    def _loses(self, how: str) -> bool:
        return self._world.takes(self._action, how)

    async def _moto(self, parameters: dict[str, str]) -> Answer:
        """Moto's answer, if it is not an error; an error is logged and handed on as it is."""
        answer = await self._ask(parameters)
        if answer.status >= 400:
            found = wire.said(answer.body)
            raise Refused(found[0], found[1], answer.status)
        return answer

    # -- launching --------------------------------------------------------------------------------------------------

    async def _run_instances(self) -> Answer:
        world, given = self._world, self._given
        token, asked_for = given.get("ClientToken"), wire.fingerprint(given)
        async with world.launching:  # Two calls with one token at the same time count as one after the other.
            if token is not None and token in world.tokens:
                known, body = world.tokens[token]
                if known != asked_for:
                    raise Refused("IdempotentParameterMismatch", "The token was used with other parameters.")
                self._ids = tuple(found for found, _ in wire.launched(body))
                return _xml(body)
            pool, count = await self._room()
            if len(wire.user_data(given).encode()) > MAX_USER_DATA:
                raise Refused("InvalidParameterValue", "User data is limited to 16384 bytes")
            body = (await self._moto({**given, "MinCount": str(count), "MaxCount": str(count)})).body
            self._started = True
            for spell in world.spells:
                spell.left -= count if spell.pool.holds(pool) else 0
            if token is not None:
                world.tokens[token] = (asked_for, body)
            for found, zone in wire.launched(body):
                self._add(found, Pool(pool.instance_type, zone, pool.market))
            return _xml(body)

    async def _room(self) -> tuple[Pool, int]:
        """Of which pool, and how many can be had. Raises `Refused` for fewer than the least."""
        world, given, faults = self._world, self._given, self._world.faults
        least, most = int(given["MinCount"]), int(given["MaxCount"])
        pool = Pool(given.get("InstanceType", ""), await self._zone(), _market(given))
        if self._strikes("unauthorized", faults.unauthorized):
            raise Refused("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)
        if self._strikes("quota", faults.quota):
            raise Refused("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit allows.")
        room = min([most, *(spell.left for spell in world.spells if spell.pool.holds(pool))])
        if self._strikes("no_capacity", faults.no_capacity):
            room = 0
        if most > 1 and self._strikes("partial", faults.partial):
            room = min(room, 1 + int((most - 1) * faults.draw("part", self._key)))
        if room < max(1, least):
            message = (
                f"We currently do not have sufficient {pool.instance_type} capacity in the Availability Zone you "
                f"requested ({pool.zone or 'any'})."
            )
            raise Refused("InsufficientInstanceCapacity", message, 500)
        return pool, room

    async def _zone(self) -> str:
        """Where the launch will be, as far as the call says."""
        given, zones = self._given, self._world.zones
        subnet = given.get("SubnetId") or given.get("NetworkInterface.1.SubnetId")
        if subnet and subnet not in zones:
            zones |= wire.zones_by_subnet((await self._moto({"Action": "DescribeSubnets"})).body)
        return zones.get(subnet, "") if subnet else given.get("Placement.AvailabilityZone", "")

    def _add(self, instance_id: str, pool: Pool) -> None:
        world, faults = self._world, self._world.faults
        now, key = time.time(), f"{self._key}/{len(self._ids)}"
        made = Ec2Instance(
            id=instance_id,
            pool=pool,
            tags=wire.instance_tags(self._given),
            user_data=wire.user_data(self._given),
            token=self._given.get("ClientToken"),
            launched_at=now,
            visible_at=now + faults.invisible_s * faults.draw("invisible", key),
            running_at=now + faults.pending_s * faults.draw("pending", key),
            region=self._region,
        )
        world.instances[instance_id] = made
        self._ids += (instance_id,)
        world.on_launch(made, made.user_data)

    # -- seeing and ending ------------------------------------------------------------------------------------------

    def _visible(self, instance_id: str) -> bool:
        known = self._world.instances.get(instance_id)
        return known is None or time.time() >= known.visible_at

    def _all_visible(self, ids: list[str]) -> None:
        """As AWS does: one that is not there, and the whole call is refused."""
        if hidden := [instance_id for instance_id in ids if not self._visible(instance_id)]:
            raise Refused("InvalidInstanceID.NotFound", f"The instance ID '{hidden[0]}' does not exist")

    async def _describe(self) -> Answer:
        self._all_visible(wire.listed(self._given, "InstanceId"))
        wanted = wire.filters(self._given)
        states = wanted.pop("instance-state-name", None)
        markets = wanted.pop("instance-lifecycle", None)
        tokens = wanted.pop("client-token", None)
        if states is not None:  # Moto is ahead of what the world tells.
            ahead = {"running"} if "pending" in states else set()
            ahead |= {"terminated"} if "shutting-down" in states else set()
            wanted["instance-state-name"] = sorted({*states, *ahead})
        answer = await self._moto(wire.with_filters(self._given, wanted))
        now = time.time()

        def keep(instance_id: str, item: ET.Element) -> bool:
            known = self._world.instances.get(instance_id)
            if known is None:
                return True
            code, name = known.state(now)
            wire.put(item, "instanceState/code", str(code))
            wire.put(item, "instanceState/name", name)
            if not known.live:
                wire.put(item, "stateReason/code", known.reason[0])
                wire.put(item, "stateReason/message", known.reason[1])
            return (
                now >= known.visible_at
                and (states is None or name in states)
                and (markets is None or (known.pool.market in markets))
                and (tokens is None or known.token in tokens)
            )

        return _xml(wire.rewrite(answer.body, keep))

    async def _terminate(self) -> Answer:
        ids = wire.listed(self._given, "InstanceId")
        self._all_visible(ids)
        answer = await self._moto(self._given)
        self._ids = tuple(ids)
        known = [self._world.instances[found] for found in ids if found in self._world.instances]
        for instance in known:
            if instance.live:
                self._world.end(instance, _SHUT)
        now = time.time()
        states = dict.fromkeys(ids, (48, "terminated")) | {one.id: one.state(now) for one in known}
        return _xml(wire.put_changes(answer.body, states))

    def _console(self) -> Answer:
        instance_id = self._given.get("InstanceId", "")
        known = self._world.instances.get(instance_id)
        if known is None or not self._visible(instance_id):
            raise Refused("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        self._ids = (instance_id,)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return _xml(wire.console_output(instance_id, self._world.console.get(instance_id, ""), at))


def _market(given: dict[str, str]) -> str:
    return "spot" if given.get("InstanceMarketOptions.MarketType") == "spot" else "on-demand"


def _xml(body: bytes) -> Answer:
    return Answer(200, body, {"Content-Type": "text/xml;charset=UTF-8"})
