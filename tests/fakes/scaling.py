"""The fake broker's scaling: reports in the scaler's bucket, decisions and lives as the real streams have them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel

from launch.errors import Unreadable
from launch.scaling import DECISIONS_KEPT, DecisionReport, InstanceEnd, ScalingReport
from launch.subjects import decision_subject, instance_subject, scaler_report_key
from tests.fakes.broker_bucket import Bucket
from tests.fakes.broker_link import Link

M = TypeVar("M", bound=BaseModel)


class StoredScaling:
    """What the server keeps of all queues' decisions and instances, by subject."""

    def __init__(self) -> None:
        self.decisions: dict[str, deque[bytes]] = {}
        self.lives: dict[str, list[bytes]] = {}

    def publish_raw(self, subject: str, body: bytes) -> bool:
        """What any NATS client may do; whether a stream listens there."""
        parts = subject.split(".")
        if len(parts) != 3 or parts[0] != "scaling" or parts[2] not in ("decision", "instance"):
            return False
        if parts[2] == "decision":
            self.decisions.setdefault(subject, deque(maxlen=DECISIONS_KEPT)).append(body)
        else:
            self.lives.setdefault(subject, []).append(body)
        return True

    def forget(self, queue: str) -> None:
        """The queue is deleted."""
        self.decisions.pop(decision_subject(queue), None)


class FakeScaling:
    """`launch.scaling.Scaling`."""

    def __init__(self, stored: StoredScaling, bucket: Bucket, link: Link) -> None:
        self._stored = stored
        self._bucket = bucket
        self._link = link

    async def report(self, report: ScalingReport) -> None:
        async with self._link.request():
            self._bucket.put(scaler_report_key(report.queue), _json(report))

    async def latest(self, queue: str) -> ScalingReport | None:
        async with self._link.request():
            entry = self._bucket.get(scaler_report_key(queue))
        if entry is None or entry.value is None:
            return None
        try:
            return ScalingReport.model_validate_json(entry.value)
        except ValueError as error:
            raise Unreadable(f"the report of {queue} can't be read") from error

    async def decided(self, queue: str, decision: DecisionReport) -> None:
        async with self._link.request():
            self._stored.publish_raw(decision_subject(queue), _json(decision))

    async def decisions(self, queue: str) -> list[DecisionReport]:
        async with self._link.request():
            return list(_readable(self._stored.decisions.get(decision_subject(queue), ()), DecisionReport))

    async def forget(self, queue: str) -> None:
        async with self._link.request():
            self._bucket.purge(lambda key: key == scaler_report_key(queue))
            self._stored.forget(queue)

    async def ended(self, queue: str, instance: InstanceEnd) -> None:
        async with self._link.request():
            self._stored.publish_raw(instance_subject(queue), _json(instance))

    async def ends(self, queue: str, since: datetime | None = None) -> list[InstanceEnd]:
        async with self._link.request():
            first: dict[str, InstanceEnd] = {}
            for life in _readable(self._stored.lives.get(instance_subject(queue), ()), InstanceEnd):
                if since is None or life.ended_at >= since:
                    first.setdefault(life.id, life)
            return sorted(first.values(), key=lambda life: life.ended_at)


def _readable(bodies: deque[bytes] | list[bytes] | tuple[()], model: type[M]) -> Iterator[M]:
    for body in bodies:
        try:
            yield model.model_validate_json(body)
        except ValueError:
            continue


def _json(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_none=True).encode()
