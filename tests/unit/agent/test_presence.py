"""What an agent tells of itself: its policy, so that others can judge by it, and the time of its own clock."""

import json
from datetime import UTC, datetime, timedelta

from agent.core.ledger import Ledger
from agent.holds import Holds
from agent.presence import MAX_POLICY_CHARS, Identity, Presence, policy_told
from launch.core.capacity import Amount
from launch.policy import AgentPolicy
from tests.fakes.broker import FakeServer
from tests.fakes.clock import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STRICT = AgentPolicy.model_validate(
    {
        "images": {"allow": ["ghcr.io/x/**"], "by_digest": True},
        "users": {"allow_root": False},
        "limits": {"memory": "8Gi", "cpu": 0.5, "timeout": "1h"},
        "secrets": ["team-*"],
        "inputs": ["s3://data/in"],
    }
)


def test_what_is_told_of_a_policy_is_read_as_the_same_policy() -> None:
    assert policy_told(AgentPolicy()) == {}
    told = policy_told(STRICT)
    assert set(told or {}) == {"images", "users", "limits", "secrets", "inputs"}
    assert AgentPolicy.model_validate(json.loads(json.dumps(told))) == STRICT


def test_nothing_is_told_of_a_policy_that_is_too_long() -> None:
    names = [f"secret-{number:04}" for number in range(MAX_POLICY_CHARS // 10)]
    assert policy_told(AgentPolicy.model_validate({"secrets": names})) is None


async def test_an_agent_tells_its_policy_and_its_time() -> None:
    clock = ManualClock(NOW)
    broker = FakeServer().connect("a")
    holds = Holds(Ledger(Amount(slots=1)))
    identity = Identity("a-1", "q", None, "1", "h", None, {}, NOW, policy_told(STRICT))
    presence = Presence(broker.agents, clock, holds, identity, ttl_s=15)
    clock.advance(5)
    await presence.announce()
    (told,) = await broker.agents.list()
    assert told.at == NOW + timedelta(seconds=5)
    assert told.policy == policy_told(STRICT)
