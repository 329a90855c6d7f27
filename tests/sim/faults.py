"""How the things of `plan.Kind` come about in a world, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.sim.plan import Fault, Kind
from tests.sim.world import QUEUE, Machine, SimEngine, Trap, World


class Trouble:
    """The faults of one run: each comes at its moment, lasts, and ends by itself."""

    def __init__(self, world: World) -> None:
        self.lasting = 0
        """How many have begun and not ended."""
        self._world = world
        self._begins: dict[Kind, Callable[[Machine, Fault], None]] = {
            Kind.CRASH: lambda machine, fault: self._crash(machine, fault.for_s),
            Kind.RESTART: self._stop,
            Kind.DRAIN: self._stop,
            Kind.REBOOT: self._reboot,
            Kind.LOSS: self._lose,
            Kind.CUT: self._cut,
            Kind.OUTAGE: self._outage,
            Kind.LOST_ANSWERS: self._lose_answers,
            Kind.REDELIVERY: lambda *_: world.server.redeliver_all(QUEUE),
            Kind.CLOCK: lambda machine, fault: machine.clock.jump(fault.amount),
            Kind.ENGINE_RESTART: lambda machine, fault: self._engine_away(machine.engine, fault.for_s, kill=True),
            Kind.ENGINE_AWAY: lambda machine, fault: self._engine_away(machine.engine, fault.for_s, kill=False),
            Kind.ENGINE_SLOW: self._engine_slow,
            Kind.CONTAINER_REMOVED: self._remove_container,
            Kind.CANCEL: lambda _, fault: _ignore(world.start(world.cancel(fault.target))),
        }

    def arm(self) -> None:
        """Let them come from now on."""
        loop = asyncio.get_running_loop()
        for fault in self._world.plan.faults:
            moment = fault.moment
            if moment.step is None:
                loop.call_later(moment.at_s, self._begin, fault)
            else:
                machine = self._world.machines[fault.target % len(self._world.machines)]
                spring = _spring(self._begin, fault)
                machine.traps.append(Trap(moment.step, moment.count, moment.after, spring))

    def disarm(self) -> None:
        """What has not come yet does not come any more."""
        for machine in self._world.machines:
            machine.traps.clear()

    def _begin(self, fault: Fault) -> None:
        world = self._world
        if world.over:
            return
        machine = world.machines[fault.target % world.plan.machines]
        if machine.gone:
            return
        world.note(f"FAULT {fault}")
        self._begins[fault.kind](machine, fault)

    def _later(self, for_s: float, end: Callable[[], None]) -> None:
        self.lasting += 1

        def ended() -> None:
            self.lasting -= 1
            end()

        asyncio.get_running_loop().call_later(for_s, ended)

    def _crash(self, machine: Machine, down_s: float) -> None:
        machine.down_s = max(machine.down_s, down_s)
        if machine.process is not None:
            machine.process.kill()

    def _stop(self, machine: Machine, fault: Fault) -> None:
        process = machine.process
        if process is None:
            return
        machine.down_s = fault.for_s
        process.stop.set()
        if fault.kind is Kind.RESTART:
            process.abort.set()

    def _reboot(self, machine: Machine, fault: Fault) -> None:
        self._engine_away(machine.engine, fault.for_s, kill=True)
        for other in self._world.machines:
            if other.engine is machine.engine:
                self._crash(other, fault.for_s + 0.5)

    def _outage(self, _: Machine, fault: Fault) -> None:
        self._world.set_server_up(False)
        self._later(fault.for_s, lambda: self._world.set_server_up(True))

    def _lose_answers(self, machine: Machine, fault: Fault) -> None:
        if machine.process is not None:
            machine.process.link.lose_replies += int(fault.amount)

    def _remove_container(self, machine: Machine, _: Fault) -> None:
        if machine.engine.open:
            world = self._world
            container = next(iter(machine.engine.open))
            machine.engine.exit(container, 137)
            machine.engine.containers.pop(container)
            world.facts.trouble[machine.engine.name].add(world.now_s(), world.now_s() + 1)

    def _cut(self, machine: Machine, fault: Fault) -> None:
        machine.cuts += 1
        machine.connect()

        def heal() -> None:
            machine.cuts -= 1
            machine.connect()

        self._later(fault.for_s, heal)

    def _lose(self, machine: Machine, fault: Fault) -> None:
        """This machine is gone; a new one, with a new name and an empty engine, comes after a while."""
        world = self._world
        now_s = world.now_s()
        for other in world.machines:
            if other.engine is machine.engine:
                other.gone = True
                self._crash(other, 0.0)
        machine.engine.wipe()
        world.facts.trouble[machine.engine.name].set(now_s, True)
        number = len(world.machines)

        def replace() -> None:
            engine = SimEngine(world, f"engine{number}", machine.clock)
            world.engines.append(engine)
            world.add_machine(f"agent{number}", engine, machine.clock).power_on()

        self._later(fault.for_s, replace)

    def _engine_away(self, engine: SimEngine, for_s: float, *, kill: bool) -> None:
        world = self._world
        now_s = world.now_s()
        if engine.away_until_s > now_s:
            return
        engine.away_until_s = now_s + for_s
        world.facts.trouble[engine.name].add(now_s, now_s + for_s + 1)
        engine.stop(kill=kill)
        self._later(for_s, engine.start_again)

    def _engine_slow(self, machine: Machine, fault: Fault) -> None:
        world, engine = self._world, machine.engine
        if engine.pace_s >= fault.amount:
            return
        usual_s, engine.pace_s = engine.usual_pace_s, fault.amount
        now_s = world.now_s()
        world.facts.trouble[engine.name].add(now_s, now_s + fault.for_s + 2 * fault.amount)

        def hurry() -> None:
            engine.pace_s = usual_s

        self._later(fault.for_s, hurry)


def _spring(begin: Callable[[Fault], None], fault: Fault) -> Callable[[], None]:
    return lambda: begin(fault)


def _ignore(_: object) -> None:
    """What is started in the background is looked after by the world."""
