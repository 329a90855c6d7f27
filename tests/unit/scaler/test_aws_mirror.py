"""What is believed of EC2, which is behind itself at times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from scaler.adapters.aws.client import Bucket
from scaler.adapters.aws.console import console_tail
from scaler.adapters.aws.mirror import STORIES_KEPT, VISIBLE_S, Mirror
from scaler.core.instance import InstanceState

AT = datetime(2026, 1, 1, tzinfo=UTC)


def item(instance_id: str, state: str = "pending", **more: Any) -> dict[str, Any]:
    tags = [{"Key": "nats-launch:intent", "Value": "i1"}, {"Key": "nats-launch:capacity", "Value": "2000/100/0/2"}]
    return {"InstanceId": instance_id, "State": {"Name": state}, "LaunchTime": AT, "Tags": tags, **more}


def look(mirror: Mirror, now_s: float, *live: dict[str, Any], gone: tuple[dict[str, Any], ...] = ()) -> None:
    mirror.looked({one["InstanceId"]: one for one in live}, {one["InstanceId"]: one for one in gone}, now_s, now_s)


def states(mirror: Mirror) -> list[str]:
    return [str(instance.state) for instance in mirror.instances()]


def test_a_launched_one_stays_until_it_is_shown_or_should_have_been() -> None:
    mirror = Mirror()
    mirror.launched([item("a"), item("b")], 0.0)
    look(mirror, 5.0, item("a", "running"))
    assert states(mirror) == ["running", "starting"]
    look(mirror, VISIBLE_S + 1, item("a", "running"))
    assert [instance.id for instance in mirror.instances()] == ["a"]
    assert "never did" in mirror.stories["b"]


def test_a_shown_one_that_is_missed_once_stays() -> None:
    mirror = Mirror()
    look(mirror, 100.0, item("a", "running"))
    look(mirror, 101.0)
    assert states(mirror) == ["running"]
    look(mirror, 101.0 + VISIBLE_S)
    assert states(mirror) == []


def test_terminated_is_gone_at_once_and_for_good() -> None:
    mirror = Mirror()
    mirror.launched([item("a")], 0.0)
    reason = {"Code": "Server.InternalError", "Message": "Server.InternalError: Internal error on launch"}
    look(mirror, 1.0, gone=(item("a", "terminated", StateReason=reason),))
    assert states(mirror) == []
    assert mirror.stories["a"] == "terminated: Server.InternalError: Internal error on launch"
    look(mirror, 2.0, item("a", "running"))
    assert states(mirror) == []
    assert mirror.launched([item("a")], 3.0) == []


def test_an_end_that_was_asked_for_is_no_news_but_another_one_is() -> None:
    mirror = Mirror()
    asked = {"Code": "Client.UserInitiatedShutdown", "Message": "Client.UserInitiatedShutdown: User initiated shutdown"}
    lost = {"Code": "Server.SpotInstanceTermination", "Message": "Spot instance termination"}
    look(mirror, 0.0, item("a", "running"), item("b", "running"), item("c", "running"))
    mirror.ending("a", 1.0, taken=True)
    mirror.ending("b", 1.0, taken=True)
    terminated = [item(one, "terminated", StateReason=why) for one, why in (("a", asked), ("b", lost), ("c", asked))]
    look(mirror, 2.0, gone=tuple(terminated))
    assert mirror.stories["a"] == ""
    assert mirror.stories["b"] == "terminated: Spot instance termination"
    assert "UserInitiatedShutdown" in mirror.stories["c"]  # Somebody else's doing.


def test_stopped_is_gone_and_shutting_down_is_stopping() -> None:
    mirror = Mirror()
    look(mirror, 1.0, item("a", "shutting-down"), item("b", "stopping"), item("c", "running"))
    assert states(mirror) == ["stopping", "stopping", "running"]
    look(mirror, 2.0, item("c", "running"), gone=(item("a", "terminated"), item("b", "stopped")))
    assert states(mirror) == ["running"]


def test_what_was_asked_to_end_is_stopping_whatever_ec2_shows() -> None:
    mirror = Mirror()
    look(mirror, 0.0, item("a", "running"), item("b", "running"))
    mirror.ending("a", 1.0, taken=True)
    mirror.draining("b")
    look(mirror, 2.0, item("a", "running"), item("b", "running"))
    assert states(mirror) == ["stopping", "stopping"]
    look(mirror, 2.0 + VISIBLE_S, item("a", "running"), item("b", "running"))
    assert states(mirror) == ["running", "stopping"]  # The first did not end; the second drains as long as it takes.


def test_one_that_ec2_did_not_know_is_to_be_ended_later() -> None:
    mirror = Mirror()
    mirror.launched([item("a")], 0.0)
    mirror.ending("a", 1.0, taken=False)
    assert (states(mirror), mirror.to_end()) == (["stopping"], ["a"])
    mirror.ending("a", 2.0, taken=True)
    assert mirror.to_end() == []


def test_only_differences_are_heard() -> None:
    mirror = Mirror()
    heard = mirror.listen()
    look(mirror, 1.0, item("a", "running"))
    assert heard.is_set()
    heard.clear()
    look(mirror, 2.0, item("a", "running"))
    assert not heard.is_set()
    look(mirror, 3.0, gone=(item("a", "terminated"),))
    assert heard.is_set()
    mirror.unlisten(heard)
    heard.clear()
    look(mirror, 4.0, item("b"))
    assert not heard.is_set()


def test_restless_is_what_is_about_to_change() -> None:
    mirror = Mirror()
    assert not mirror.restless()
    mirror.launched([item("a")], 0.0)
    assert mirror.restless()
    look(mirror, 1.0, item("a", "running"))
    assert not mirror.restless()
    mirror.ending("a", 2.0, taken=True)
    assert mirror.restless()


def test_what_is_told_of_an_instance() -> None:
    mirror = Mirror()
    facts = {"InstanceType": "m5.large", "Placement": {"AvailabilityZone": "z"}, "InstanceLifecycle": "spot"}
    look(mirror, 0.0, item("a", "running", **facts))
    (found,) = mirror.instances()
    assert (found.instance_type, found.zone, found.market, found.intent) == ("m5.large", "z", "spot", "i1")
    assert (found.capacity.cpu_milli, found.state, found.agent_id) == (2000, InstanceState.RUNNING, "a")
    assert mirror.of_intent("i1") == [found]
    assert mirror.of_intent("i2") == []


def test_stories_are_bounded() -> None:
    mirror = Mirror()
    for number in range(STORIES_KEPT + 5):
        mirror.launched([item(f"i{number}")], 0.0)
        mirror.gone(f"i{number}", "x")
    assert len(mirror.stories) == STORIES_KEPT
    assert "i0" not in mirror.stories


def test_a_console_without_our_lines_tells_its_end() -> None:
    assert console_tail("") == ""
    assert console_tail("a\r\nb\x00\x1b]0;title\x07c\n\n") == "a\nbc"
    assert console_tail("\n".join(f"line {number}" for number in range(99))).splitlines()[-1] == "line 98"
    assert len(console_tail("x" * 10_000)) <= 300
    tries = "nats-launch: pulling x\nnats-launch: docker: denied\nnats-launch: can't pull x\n" * 9
    assert console_tail("nats-launch: booting\n" + tries) == "booting\npulling x\ndocker: denied\ncan't pull x"


async def test_a_bucket_lets_a_burst_through_then_so_many_a_second_and_nobody_wait_long() -> None:
    bucket = Bucket(2, 4.0)
    waits = [bucket.take(0.6) for _ in range(6)]
    assert waits[:2] == [0.0, 0.0]
    assert 0.2 < waits[2] <= 0.25
    assert 0.45 < waits[3] <= 0.5
    assert waits[4] > 0.6
    assert waits[5] == pytest.approx(waits[4], abs=0.05)  # The one before took none.
