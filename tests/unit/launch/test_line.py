"""Where a job stands in line."""

from launch.core.line import LOOKED_AT_MOST, Ahead, Line
from launch.subjects import JobId, Priority, WorkConsumer

HIGH, MEDIUM, LOW = Priority.HIGH, Priority.MEDIUM, Priority.LOW


def line(seq: int, priority: Priority = MEDIUM, *, held: tuple[int, ...] = (), high: int = 0) -> Line:
    counts = {WorkConsumer("train", HIGH): high, WorkConsumer("train", MEDIUM): 99}
    return Line(JobId("q", seq), priority, held=frozenset(f"q/{n}" for n in held), counts=counts)


def ahead(line: Line, *lying: tuple[int, Priority]) -> Ahead:
    line.see([(JobId("q", seq), priority) for seq, priority in lying])
    return line.ahead()


def test_earlier_jobs_of_the_same_or_a_higher_priority_come_first() -> None:
    lying = ((1, MEDIUM), (2, LOW), (3, HIGH), (4, MEDIUM), (5, MEDIUM))
    assert ahead(line(4, high=1), *lying) == Ahead(2)
    assert ahead(line(2, LOW, high=1), *lying) == Ahead(1 + 1 + 99 - 1)  # the others are published later
    assert ahead(line(3, HIGH), *lying) == Ahead(0)


def test_held_jobs_are_served_already() -> None:
    assert ahead(line(4, held=(1, 2)), (1, MEDIUM), (2, MEDIUM), (3, MEDIUM), (4, MEDIUM)) == Ahead(1)


def test_later_jobs_of_a_higher_priority_come_first_unless_they_are_held() -> None:
    assert ahead(line(2, high=3), (1, HIGH), (2, MEDIUM), (3, HIGH)) == Ahead(3)
    assert ahead(line(2, high=3, held=(3, 4)), (1, HIGH), (2, MEDIUM)) == Ahead(1)


def test_it_says_when_it_has_seen_enough() -> None:
    found = line(3)
    before = found.is_seen
    assert ahead(found, (1, MEDIUM), (2, MEDIUM)) == Ahead(2, at_least=True)
    assert (before, found.is_seen) == (False, False)
    assert ahead(found, (3, MEDIUM)) == Ahead(2)
    gone = line(3)
    assert ahead(gone) == Ahead(0)
    assert (found.is_seen, gone.is_seen) == (True, True)


def test_the_look_is_bounded() -> None:
    found = line(5000)
    pages = 0
    while not found.is_seen:
        found.see([(JobId("q", pages * 250 + n + 1), MEDIUM) for n in range(250)])
        pages += 1
    assert pages == 4
    assert str(found.ahead()) == "more than 1,000 ahead of it"
    urgent = line(5000, HIGH)
    assert ahead(urgent, *((n + 1, LOW) for n in range(LOOKED_AT_MOST))) == Ahead(0, at_least=True)


def test_in_words() -> None:
    assert str(Ahead(1)) == "1 ahead of it"
