"""What the scaler has in hand for a queue, and what keeps it from more: in one clause each, with what to do.

Pure: a report, the queue's spec and the time in; words out. Used where a job says why it waits, and where a queue is
shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from launch.core.quantity import show_duration
from launch.core.why import Why
from launch.queue import AwsProvider, QueueSpec
from launch.scaling import RENEWED_EVERY_S, InstanceReport, InstanceStage, ScalingReport

STALE_S = 3 * RENEWED_EVERY_S
"""A report this old is by a scaler that looks no more."""
START_ONE = "start one: launch scaler"


def absent(queue: str, report: ScalingReport | None, now: datetime) -> Why | None:
    """That no scaler looks after the queue; None if one does."""
    if report is None:
        return Why(f"no scaler has looked at the queue {queue} yet", START_ONE)
    age_s = (now - report.at).total_seconds()
    if age_s < STALE_S and not report.stopped:
        return None
    return Why(f"no scaler has looked since {report.at:%Y-%m-%d %H:%M:%S} UTC ({show_duration(age_s)} ago)", START_ONE)


def stopped(queue: QueueSpec, report: ScalingReport, now: datetime) -> Why | None:
    """What keeps the scaler from starting instances; None if nothing does."""
    if report.trouble:
        return Why(f"the scaler is held up: {report.trouble}")
    return never_registered(queue, report, now)


def never_registered(queue: QueueSpec, report: ScalingReport, now: datetime) -> Why | None:
    """The story of launches that came to nothing; None if the last ones did not."""
    boots = report.boots
    if boots is None or not boots.failures:
        return None
    text = f"{_counted(boots.failures, 'instance')} never registered"
    if boots.why:
        text += f" ({boots.why})"
    if boots.retry_at is not None and boots.retry_at > now:
        text += f"; the next try is in {show_duration((boots.retry_at - now).total_seconds())}"
    if not isinstance(queue.provider, AwsProvider):
        return Why(text)
    if queue.agent_image is None:
        return Why(text, "the queue names no agent_image")
    return Why(text, f"is agent_image {queue.agent_image} pullable from there?")


def booting(report: ScalingReport, now: datetime) -> str | None:
    """Which instance is waited for, and how long that usually takes; None if none is on its way."""
    coming = [one for one in report.instances if one.stage is InstanceStage.BOOTING]
    asked = [one for one in report.instances if one.stage is InstanceStage.INTENT]
    if not coming:
        return _asked_for(asked, now) if asked else None
    first = min(coming, key=lambda one: one.since)
    text = f"{first.id} booting since {_seconds(now, first.since)}"
    if report.boot_s is not None:
        text += f", usually {show_seconds(report.boot_s)}"
    others = len(coming) + len(asked) - 1
    others += sum(group.count for group in report.more if group.stage in (InstanceStage.BOOTING, InstanceStage.INTENT))
    return f"{text} (and {others} more)" if others else text


def at_limit(queue: QueueSpec, report: ScalingReport) -> str | None:
    """That there are as many instances as there may be; None if there is room for more."""
    limit = report.max_instances if report.max_instances is not None else queue.max_instances
    if report.count < limit or not limit:
        return None
    leaving = sum(1 for one in report.instances if one.stage in (InstanceStage.DRAINING, InstanceStage.ENDING))
    text = f"max_instances is {limit}, and {'it is' if limit == 1 else 'all are'} there"
    return f"{text} ({leaving} on the way out)" if leaving else text


def _asked_for(asked: Sequence[InstanceReport], now: datetime) -> str:
    since = _seconds(now, min(one.since for one in asked))
    return f"{_counted(len(asked), 'instance')} asked for {since} ago"


def show_seconds(seconds: float) -> str:
    """A time in the order of a boot's, such as `0.7 s`, `41 s` or `3m20s`."""
    if seconds >= 120:
        return show_duration(seconds)
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.0, seconds):.1f} s"


def _seconds(now: datetime, then: datetime) -> str:
    return show_seconds((now - then).total_seconds())


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
