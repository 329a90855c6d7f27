"""Keeps the mirror close to EC2: looks often while something is about to change, rarely otherwise, at once when asked.

One task, which also ends what EC2 did not know yet when it was to end, and renews what launches need. Invariant: a
mirror that could not be brought up to date for `stale_s` is not believed any more.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from launch.aws import AwsProvider as AwsSpec
from launch.errors import LaunchError
from scaler.adapters.aws.client import Ec2, Refused
from scaler.adapters.aws.errors import Fault, Kind, refusal
from scaler.adapters.aws.images import Catalog
from scaler.adapters.aws.mirror import VISIBLE_S, Mirror
from scaler.adapters.aws.request import TAG
from scaler.ports import ProviderUnavailable

FILTER_VALUES = 200
"""EC2 takes so many values of one filter."""
PAGE = 50
"""Instances a page: the SDK takes about a millisecond for each, during which nothing else runs."""
PAUSE_MAX_S = 15.0
PREPARE_LIMIT_S, PREPARE_AGAIN_S = 10.0, 60.0
_LIVE = ["pending", "running", "shutting-down", "stopping"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between looks at the instances, and for how long one is believed."""

    fast_s: float = 2.0
    slow_s: float = 15.0
    stale_s: float = 60.0
    hurry_s: float = 0.2
    """From what this process did to the next look: what comes in a burst is looked at once."""
    expect_s: float = 60.0
    """For so long it looks often, after it was told that an instance may end by itself."""


class Watch:
    """The looks at one queue's instances."""

    def __init__(self, ec2: Ec2, mirror: Mirror, catalog: Catalog, *, queue: str, cluster: str, pace: Pace) -> None:
        self.spec: AwsSpec | None = None
        """Whose launches are prepared for."""
        self._ec2 = ec2
        self._mirror = mirror
        self._catalog = catalog
        self._queue = queue
        self._cluster = cluster
        self._pace = pace
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._looked_at_s = 0.0
        self._prepare_after_s = 0.0
        self._expect_until_s = 0.0
        self._trouble: LaunchError | None = None

    async def start(self, spec: AwsSpec) -> None:
        """Look once, and go on looking. Raises as `look` does."""
        self.spec = spec
        await self.look()
        await self._prepare()
        self._task = asyncio.create_task(self._run(), name=f"aws-watch-{self._queue}")

    async def stop(self) -> None:
        """Look no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def hurry(self) -> None:
        """Something was done: look soon."""
        self._hurry.set()

    def expect(self) -> None:
        """An instance may end by itself: look now, and often for a while."""
        self._expect_until_s = asyncio.get_running_loop().time() + self._pace.expect_s
        self._hurry.set()

    def check(self) -> None:
        """Raises `ProviderUnavailable` if the mirror is too old to be believed."""
        if self._task is not None and self._task.done():
            self._task.result()  # A defect, told where somebody listens.
        age_s = asyncio.get_running_loop().time() - self._looked_at_s
        if age_s > self._pace.stale_s:
            why = self._trouble.message if self._trouble else "EC2 does not answer"
            hint = self._trouble.hint if self._trouble else None
            raise ProviderUnavailable(f"the instances were last seen {age_s:.0f} s ago: {why}", hint=hint)

    async def look(self) -> None:
        """Bring the mirror up to date. Raises `ProviderUnavailable` or `ProviderUnsuitable`."""
        loop = asyncio.get_running_loop()
        asked_at_s = loop.time()
        try:
            live = await self._described(self._tagged(), {"Name": "instance-state-name", "Values": _LIVE})
            missing = sorted(self._mirror.entries.keys() - live.keys())
            others: dict[str, Any] = {}
            for start in range(0, len(missing), FILTER_VALUES):
                ids = {"Name": "instance-id", "Values": missing[start : start + FILTER_VALUES]}
                others |= await self._described(ids)
        except Refused as refused:
            raise refusal(refused.fault, "can't look at the instances", "ec2:DescribeInstances") from None
        self._looked_at_s = loop.time()
        self._trouble = None
        self._mirror.looked(live, others, asked_at_s, self._looked_at_s)

    async def of_intent(self, intent_id: str) -> list[Any]:
        """What EC2 has that was started for an intent, gone or not. Raises as `look` does."""
        try:
            found = await self._described(self._tagged(), {"Name": f"tag:{TAG}intent", "Values": [intent_id]})
        except Refused as refused:
            raise refusal(refused.fault, "can't look at the instances", "ec2:DescribeInstances") from None
        return list(found.values())

    async def terminate(self, instance_id: str) -> None:
        """End it; if EC2 does not know it yet, as soon as it does. Raises `ProviderUnavailable`.

        One a call: a single unknown id would refuse the whole call.
        """
        now_s = asyncio.get_running_loop().time()
        entry = self._mirror.entries.get(instance_id)
        try:
            await self._ec2.call("terminate_instances", tries=3, InstanceIds=[instance_id])
        except Refused as refused:
            if refused.fault.kind is not Kind.NOT_FOUND:
                what = f"can't end {instance_id}"
                raise refusal(refused.fault, what, "ec2:TerminateInstances") from None
            self._unknown(instance_id, refused.fault, now_s, visible=entry is None or entry.visible)
        else:
            self._mirror.ending(instance_id, now_s, taken=True)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _unknown(self, instance_id: str, fault: Fault, now_s: float, *, visible: bool) -> None:
        """EC2 does not know it: not yet, or not any more."""
        entry = self._mirror.entries.get(instance_id)
        if entry is None:
            return
        if now_s - entry.seen_at_s > VISIBLE_S:
            self._mirror.gone(instance_id, str(fault) if visible else "EC2 never knew it")
        else:
            self._mirror.ending(instance_id, now_s, taken=False)

    async def _run(self) -> None:
        failures = 0
        while True:
            expecting = asyncio.get_running_loop().time() < self._expect_until_s
            pause_s = self._pace.fast_s if expecting or self._mirror.restless() else self._pace.slow_s
            if failures:
                pause_s = min(PAUSE_MAX_S, self._pace.fast_s * 2.0 ** min(failures - 1, 10))
            await self._pause(pause_s)
            try:
                await self.look()
                failures = 0
                await self._end_unknown()
                await self._prepare()
            except LaunchError as error:
                if not failures:
                    _log.warning("can't look at the instances", queue=self._queue, error=str(error))
                failures += 1
                self._trouble = error

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
                await asyncio.sleep(self._pace.hurry_s)
        self._hurry.clear()

    async def _end_unknown(self) -> None:
        for instance_id in self._mirror.to_end():
            await self.terminate(instance_id)

    async def _prepare(self) -> None:
        """What launches need. A trouble with it is told by the launch, and does not keep this loop from looking."""
        loop = asyncio.get_running_loop()
        if self.spec is None or loop.time() < self._prepare_after_s:
            return
        try:
            async with asyncio.timeout(PREPARE_LIMIT_S):
                await self._catalog.warm(self.spec)
        except (LaunchError, TimeoutError) as error:
            self._prepare_after_s = loop.time() + PREPARE_AGAIN_S
            _log.debug("can't prepare launches", queue=self._queue, error=str(error))

    def _tagged(self) -> dict[str, Any]:
        return {"Name": f"tag:{TAG}queue", "Values": [self._queue]}

    async def _described(self, *filters: dict[str, Any]) -> dict[str, Any]:
        """By id; of this cluster only."""
        ours = {"Name": f"tag:{TAG}cluster", "Values": [self._cluster]}
        pages = await self._ec2.pages(
            "describe_instances", Filters=[*filters, ours], PaginationConfig={"PageSize": PAGE}
        )
        return {
            item["InstanceId"]: item
            for page in pages
            for reservation in page["Reservations"]
            for item in reservation["Instances"]
        }
