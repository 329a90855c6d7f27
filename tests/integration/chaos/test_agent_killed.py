"""An agent that is killed and started again: the same containers go on, and nothing of theirs is lost or done twice."""

from __future__ import annotations

import random
from functools import partial

import pytest

from launch.core.states import State
from tests.integration.agent_lab import HOLD
from tests.integration.chaos.events import Runs
from tests.integration.chaos.lab import Chaos, counting, exact

FAIL = HOLD[2].replace("exit 0", "echo bye; exit 5")

pytestmark = [pytest.mark.docker, pytest.mark.nats]


@pytest.mark.slow
async def test_the_same_containers_go_on_and_their_output_is_whole(lab: Chaos) -> None:
    agent = await lab.started("a", "--max-jobs", "3")
    commands = (counting(), counting(), ["sh", "-c", FAIL])
    goes_on, ends, fails = [await lab.submit(command=command) for command in commands]
    jobs = (goes_on, ends, fails)
    before = {job: await lab.running(job) for job in jobs}
    await lab.said(goes_on, b"\n20\n")
    await lab.said(ends, b"\n20\n")
    await lab.said(fails, b"ready")
    await agent.kill()
    # While nobody looks: one goes on, one ends well, one ends badly.
    await lab.told(ends)
    await lab.told(fails)
    await lab.runs.ended(ends)
    await lab.runs.ended(fails)
    await agent.start()
    assert (await lab.ended(ends)).state is State.SUCCEEDED
    assert ((await lab.ended(fails)).state, (await lab.ended(fails)).exit_code) == (State.FAILED, 5)
    seen = int((await lab.output(goes_on)).split()[-1])
    await lab.said(goes_on, f"\n{seen + 20}\n".encode())
    await lab.told(goes_on)
    assert (await lab.ended(goes_on)).state is State.SUCCEEDED
    for job in jobs:
        record = await lab.ended(job)
        assert (record.attempt, record.container) == (1, before[job].container)
        assert [run.container for run in lab.runs.of(job)] == [before[job].container]
    assert exact(await lab.output(goes_on))
    assert exact(await lab.output(ends))
    assert await lab.output(fails) == b"ready\nbye\n"
    assert lab.runs.doubled() == []
    await lab.nothing_left()


@pytest.mark.slow
async def test_killed_at_any_moment_every_job_runs_once(lab: Chaos) -> None:
    """The moments come with the engine's events: between claim, start, exit, record, ack and removal of some job."""
    agent = await lab.started("a", "--max-jobs", "3")
    chance = random.Random(7)  # noqa: S311  (seeded: a run repeats)
    jobs = [await lab.submit(command=["sh", "-c", "echo start; sleep 0.3; echo end"]) for _ in range(12)]
    for _ in range(4):
        goal = lab.runs.events + chance.randint(1, 4)
        await lab.runs.until(partial(happened, goal))
        await agent.kill()
        await agent.start(ready=False)
    for job in jobs:
        record = await lab.ended(job)
        assert record.state is State.SUCCEEDED
        # A kill before the start of a container costs an attempt, never a second run of the same work at once.
        assert (await lab.output(job)).endswith(b"start\nend\n")
    assert lab.runs.doubled() == []
    assert [len([run for run in lab.runs.of(job) if run.exit_code == 0]) for job in jobs] == [1] * len(jobs)
    await lab.nothing_left()


def happened(goal: int, runs: Runs) -> bool:
    return runs.events >= goal
