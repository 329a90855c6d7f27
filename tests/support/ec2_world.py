"""EC2 as it truly is behind the proxy, what shall go wrong with it, and the log of all that happened."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

from tests.support.ec2_faults import Call, Ec2Instance, Faults, Pool, Refusal, Spell

OnLaunch = Callable[[Ec2Instance, str], None]
OnTerminate = Callable[[Ec2Instance], None]


class Ec2World:
    """Instances, faults and the log."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        """May be replaced at any moment."""
        self.instances: dict[str, Ec2Instance] = {}
        self.log: list[Call] = []
        self.console: dict[str, str] = {}
        """What `GetConsoleOutput` tells, by instance id."""
        self.on_launch: OnLaunch = lambda _instance, _user_data: None
        """Called with each new instance and its user data, before its launcher is answered."""
        self.on_terminate: OnTerminate = lambda _instance: None
        """Whoever ends it: a call, AWS, or the instance itself."""
        self.changed = asyncio.Event()
        """Set after every entry of the log and every line on a console; whoever waits for it clears it."""
        self.spells: list[Spell] = []
        self.counts: Counter[str] = Counter()
        self.tokens: dict[str, tuple[str, bytes]] = {}
        """What was asked for with each token, and what was answered."""
        self.zones: dict[str, str] = {}
        """By subnet."""
        self.launching = asyncio.Lock()
        self.gates: dict[str, asyncio.Event] = {}
        """Calls of these names wait, before anything else, until their events are set."""
        self._refusals: list[Refusal] = []
        self._lost: list[tuple[str, str]] = []

    # -- what a test does and asks ------------------------------------------------------------------------------------

    def run_dry(
        self, instance_type: str | None = None, zone: str | None = None, market: str | None = None, *, left: int = 0
    ) -> None:
        """From now on only `left` more of these can be had; what is not named stands for any."""
        self.spells.append(Spell(Pool(instance_type, zone, market), left))

    def refill(self) -> None:
        """Everything can be had again."""
        self.spells.clear()

    def refuse(self, action: str, code: str, message: str = "no", *, status: int = 400, times: int | None = 1) -> None:
        """The next `times` calls (None: all, until `relent`) of this name, of any service, get this error."""
        self._refusals.append(Refusal(action, status, code, message, times))

    def relent(self) -> None:
        """No call is refused by name any more."""
        self._refusals.clear()

    def lose_reply(self, action: str) -> None:
        """The next EC2 call of this name takes effect, and its caller never hears of it."""
        self._lost.append((action, "lost reply"))

    def lose_request(self, action: str) -> None:
        """The next EC2 call of this name ends without effect or answer."""
        self._lost.append((action, "lost request"))

    def live(self, **tags: str) -> list[Ec2Instance]:
        """The instances that exist now, oldest first; `_` in a tag's name stands for `:` and `-` too."""
        return [instance for instance in self.instances.values() if instance.live and _tagged(instance.tags, tags)]

    def calls(self, action: str) -> list[Call]:
        """The log's entries of one name, oldest first."""
        return [call for call in self.log if call.action == action]

    async def until(self, wanted: Callable[[], bool], limit_s: float = 30.0) -> None:
        """Wait until this holds; asked after every entry of the log and every line on a console."""
        async with asyncio.timeout(limit_s):
            while not wanted():
                self.changed.clear()
                await self.changed.wait()

    # -- what a call does ---------------------------------------------------------------------------------------------

    def refusal(self, action: str) -> Refusal | None:
        for refusal in self._refusals:
            if refusal.action == action:
                if refusal.times is not None:
                    refusal.times -= 1
                    if refusal.times <= 0:
                        self._refusals.remove(refusal)
                return refusal
        return None

    def note(self, call: Call) -> None:
        self.log.append(call)
        self.changed.set()

    def takes(self, action: str, how: str) -> bool:
        """Whether this call is one that a test wants lost like this."""
        with contextlib.suppress(ValueError):
            self._lost.remove((action, how))
            return True
        return False

    def end(self, instance: Ec2Instance, why: tuple[str, str]) -> None:
        now = time.time()
        instance.ended_at, instance.reason = now, why
        instance.gone_at = now + self.faults.shutting_s * self.faults.draw("shutting", instance.id)
        self.on_terminate(instance)


def _tagged(tags: dict[str, str], wanted: dict[str, str]) -> bool:
    plain = {key.replace(":", "_").replace("-", "_"): value for key, value in tags.items()}
    return all(plain.get(key) == value for key, value in wanted.items())
