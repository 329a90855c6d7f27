"""What the scaler remembers of its instances."""

from __future__ import annotations

from datetime import datetime

from launch.presence import AgentPresence, AgentState
from scaler.core import ledger as ledgers
from scaler.core.instance import Instance
from scaler.core.ledger import Ledger, Presences
from scaler.core.snapshot import Boots, History, Running
from tests.unit.scaler.worlds import CAPACITY, NOW, ago, instance, presence

LONG_AGO = ago(10_000)


def look(
    ledger: Ledger,
    instances: list[Instance],
    *agents: AgentPresence,
    now: datetime = NOW,
    view_since: datetime = LONG_AGO,
) -> tuple[Ledger, list[str]]:
    here = Presences({agent.agent_id: agent for agent in agents})
    return ledgers.note(ledger, instances, here, now=now, view_since=view_since, boot_deadline_s=60)


def test_an_instance_is_new_until_its_agent_is_seen() -> None:
    a = instance("a", age_s=5)
    first, _ = look(Ledger(), [a], now=ago(4))
    assert first.seen["i-a"].history is History.NEW
    assert first.seen["i-a"].absent_since == ago(4)
    second, ended = look(first, [a], presence("a", age_s=3))
    assert second.seen["i-a"].history is History.REGISTERED
    assert second.seen["i-a"].absent_since is None
    assert ended == []


def test_an_agent_that_was_seen_is_missed_from_then_on() -> None:
    a = instance("a", age_s=50)
    seen, _ = look(Ledger(), [a], presence("a", age_s=40))
    gone, _ = look(seen, [a], now=ago(-7))
    assert gone.seen["i-a"].history is History.REGISTERED
    assert gone.seen["i-a"].absent_since == ago(-7)
    later, _ = look(gone, [a], now=ago(-9))
    assert later.seen["i-a"].absent_since == ago(-7)


def test_nobody_is_missed_while_the_view_was_broken() -> None:
    a = instance("a", age_s=5)
    first, _ = look(Ledger(), [a], now=ago(4))
    again, _ = look(first, [a], view_since=ago(1))
    assert again.seen["i-a"].absent_since == ago(1)


def test_an_old_instance_at_the_first_look_is_adopted() -> None:
    found, ended = look(Ledger(), [instance("a", age_s=60), instance("b", age_s=59)])
    assert found.seen["i-a"].history is History.ADOPTED
    assert found.seen["i-b"].history is History.NEW
    assert ended == []


def test_an_end_before_registering_is_told_once() -> None:
    fresh = ledgers.launched(Ledger(), [instance("a", age_s=0)], NOW)
    after, ended = look(fresh, [])
    assert ended == ["i-a"]
    assert look(after, [])[1] == []


def test_an_end_that_was_asked_for_or_that_comes_later_is_no_failure() -> None:
    a, b = instance("a", age_s=5), instance("b", age_s=5)
    ledger = ledgers.launched(Ledger(), [a, b], NOW)
    ledger, _ = look(ledger, [a, b], presence("b", age_s=3))
    assert look(ledgers.ending(ledger, "i-a"), [])[1] == []
    assert ledgers.ending(ledger, "i-unknown") == ledger


def test_one_that_registers_forgets_the_failures() -> None:
    a = instance("a", age_s=5)
    ledger = Ledger(boots=Boots(4, ago(60), "it crashed"))
    ledger, _ = look(ledger, [a])
    assert ledger.boots.failures == 4
    ledger, _ = look(ledger, [a], presence("a", age_s=1))
    assert ledger.boots == Boots()
    ledger = Ledger(ledger.seen, Boots(1, NOW, "another crashed"))
    assert look(ledger, [a], presence("a", age_s=1))[0].boots.failures == 1


def test_a_predecessor_of_the_same_name_is_not_taken_for_the_agent() -> None:
    a = instance("a", age_s=5)
    ledger, _ = look(Ledger(), [a], presence("a", age_s=11))
    assert ledger.seen["i-a"].history is History.NEW
    (worker,) = ledgers.join(ledger, [a], Presences({"a": presence("a", age_s=11)}))
    assert worker.presence is None


def test_instances_and_agents_are_joined() -> None:
    a, b = instance("a"), instance("b")
    presences = Presences({"a": presence("a"), "x": presence("x")}, {"b": presence("b"), "gone": presence("gone")})
    ledger, _ = ledgers.note(Ledger(), [a, b], presences, now=NOW, view_since=ago(9), boot_deadline_s=60)
    workers = ledgers.join(ledger, [a, b], presences)
    assert [(worker.name, worker.instance is not None, worker.stale) for worker in workers] == [
        ("a", True, False),
        ("b", True, True),
        ("x", False, False),
    ]


def test_an_agent_that_left_drained_is_not_missed() -> None:
    a = instance("a", age_s=500)
    seen, _ = look(Ledger(), [a], presence("a", state=AgentState.DRAINED))
    gone, _ = look(seen, [a])
    assert gone.seen["i-a"].history is History.DRAINED
    [worker] = ledgers.join(gone, [a], Presences({}))
    assert (worker.history, worker.presence) == (History.DRAINED, None)
    back, _ = look(seen, [a], presence("a"))
    assert back.seen["i-a"].history is History.REGISTERED


def test_it_is_remembered_whose_agent_was_asked_to_drain_and_what_runs_where() -> None:
    a = instance("a", age_s=500)
    asked = ledgers.drain_asked(look(Ledger(), [a], presence("a"))[0], "i-a", ago(3))
    later, _ = look(asked, [a], presence("a"))
    run = Running("q/1", "train", CAPACITY, ago(9))
    workers = ledgers.join(later, [a], Presences({"a": presence("a"), "x": presence("x")}), {"a": (run,), "x": (run,)})
    assert [(worker.drain_asked_at, worker.running) for worker in workers] == [(ago(3), (run,)), (None, (run,))]
    assert ledgers.drain_asked(later, "i-unknown", ago(1)) == later
