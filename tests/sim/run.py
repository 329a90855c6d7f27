"""One run from its seed to what was wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import random
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from importlib.metadata import version
from traceback import format_exception
from typing import Any, NoReturn

import structlog

import agent.main
from tests.sim.facts import Facts
from tests.sim.faults import Trouble
from tests.sim.loop import SimLoop
from tests.sim.plan import FAULTS_END_S, Plan, make_plan
from tests.sim.promise import broken_promises
from tests.sim.world import World

POLL_S = 0.5
PATIENCE_S = 3600.0
"""So long after the last fault everything must have come to its end, the ten longest backoffs of a job included."""


# Read from the disk for every agent that starts, which would take a tenth of a run.
vars(agent.main)["version"] = functools.cache(version)


@dataclass(slots=True)
class Result:
    """What a run came to: empty `broken` means that the promise was kept."""

    plan: Plan
    facts: Facts
    broken: list[str]
    trace: list[str] = field(default_factory=list)


def run_seed(seed: int, *, trace: bool = False) -> Result:
    """Do the run of one seed."""
    plan = make_plan(seed)
    lines: list[str] = []
    facts = Facts()
    random.seed(seed)
    # Garbage is collected between runs: never in one, where it might end a generator at another moment each time.
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=SimLoop) as runner:
            facts = runner.run(_run(plan, lines if trace else None))
    finally:
        gc.enable()
    return Result(plan, facts, broken_promises(plan, facts), lines)


async def _run(plan: Plan, lines: list[str] | None) -> Facts:
    world = World(plan, lines.append if lines is not None else None)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: world.defect(f"unhandled: {context}"))
    with _logs_to(world):
        trouble = Trouble(world)
        for machine in world.machines:
            machine.power_on()
        for number, job in enumerate(plan.jobs):
            loop.call_later(job.at_s, world.publish, number)
        trouble.arm()
        await _until_settled(world, trouble)
        world.facts.ended_s = world.now_s()
        world.over = True
        for machine in world.machines:
            if machine.process is not None:
                machine.process.kill()
        for machine in world.machines:
            while machine.process is not None:
                await asyncio.wait({machine.process.task})
                await asyncio.sleep(0)
    return world.facts


async def _until_settled(world: World, trouble: Trouble) -> None:
    while world.now_s() < FAULTS_END_S:
        await asyncio.sleep(POLL_S)
        if not trouble.lasting and world.settled():
            return
    trouble.disarm()
    while trouble.lasting:  # noqa: ASYNC110  (time is virtual: it costs nothing)
        await asyncio.sleep(POLL_S)
    world.note("no more faults")
    deadline_s = world.now_s() + PATIENCE_S
    while not world.settled():
        if world.now_s() > deadline_s:
            world.facts.left = world.left()
            return
        await asyncio.sleep(POLL_S)


@contextlib.contextmanager
def _logs_to(world: World) -> Iterator[None]:
    """Agents' logs go into the trace, and what they call an error is a defect."""

    def take(logger: object, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        del logger
        error = sys.exc_info()[1] if event.pop("exc_info", None) else None
        words = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
        if method in ("error", "critical"):
            told = "".join(format_exception(error)) if error is not None else ""
            world.defect(f"logged: {event['event']} {words}\n{told}")
        else:
            world.note(f"{method}: {event['event']} {words}")
        raise structlog.DropEvent

    before = structlog.get_config()
    level = logging.INFO if world.traced else logging.ERROR
    structlog.configure(
        processors=[take], wrapper_class=structlog.make_filtering_bound_logger(level), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
