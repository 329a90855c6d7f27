"""`python -m bench.soak`: a few hundred jobs on real agents, a real server and a real engine, and faults without end.

Agents are killed, frozen and cut off, the server is restarted, containers are removed, jobs are cancelled, at moments
that a seed decides. Afterwards every job is accounted for: its record, its message, its output, and what the engine's
own events say ran, and when. Exits with 1 if a job was lost, or ran twice at a time without its agent being cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import soak_leader
from bench.parts import busybox
from bench.soak_account import Account, summary
from bench.soak_faults import Faults
from bench.soak_scene import SHORT, Scene, Worker
from launch.adapters.nats import connect
from launch.queue import QueueSpec, StaticProvider
from tests.integration.chaos.agents import AgentProcess
from tests.integration.chaos.events import watched
from tests.support import engine
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

AGENTS = 3
JOBS_AT_ONCE = 4
FOLDER = Path("build/bench")


async def soak(jobs: int, seconds: float, seed: int) -> dict[str, Any]:
    """One run."""
    chance = random.Random(seed)  # noqa: S311  (seeded: a run repeats, as far as real processes do)
    queue, image = f"soak-{seed}", await busybox()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        server = NatsServer(folder / "nats").start()
        stack.callback(server.stop)
        broker = await connect(server.url, name="soak")
        stack.push_async_callback(broker.close)
        await broker.queues.apply(QueueSpec(queue_name=queue, provider=StaticProvider()))
        engine.remove_containers(f"launch.queue={queue}")
        stack.callback(engine.remove_containers, f"launch.queue={queue}")
        runs = await stack.enter_async_context(watched(queue))
        workers = []
        for number in range(AGENTS):
            way = await Proxy(server.port).start()
            stack.push_async_callback(way.cut)
            options = (*SHORT, "--cpu", "100", "--max-jobs", str(JOBS_AT_ONCE))
            agent = AgentProcess(f"{queue}-{number}", queue, way.url, folder, broker, options)
            stack.push_async_callback(agent.kill)
            await agent.start()
            workers.append(Worker(agent, way))
        scene = Scene(chance, server, broker, runs, workers, queue, image)
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(scene.follow_records(), name="records")
            submitting = tasks.create_task(scene.submit(jobs, seconds * 0.9), name="submit")
            breaking = tasks.create_task(Faults(scene).break_things(begun + seconds), name="faults")
            await asyncio.wait({submitting, breaking})
            await scene.settle()
            following.cancel()
        result = await Account(scene).take()
        result["seconds"] = asyncio.get_running_loop().time() - begun
        result["tracebacks"] = sum(worker.agent.said().count("Traceback") for worker in workers)
        if result["lost"] or result["doubled"] or result["tracebacks"]:
            _keep_logs(workers)
        return result


async def _leaders(kills: int) -> list[float]:
    return await soak_leader.measure(await busybox(), kills) if kills else []


def _keep_logs(workers: list[Worker]) -> None:
    """What the agents said, for who looks into what went wrong."""
    folder = FOLDER / "soak-logs"
    folder.mkdir(parents=True, exist_ok=True)
    for worker in workers:
        (folder / worker.agent.log.name).write_text(worker.agent.said())


def main() -> int:
    """Run, print a table, save `build/bench/soak.json`."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long jobs are submitted and faults happen")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leaders", type=int, default=5, help="how often the leader of a cluster is killed afterwards")
    given = parser.parse_args()
    result = asyncio.run(soak(given.jobs, given.seconds, given.seed))
    result = {"seed": given.seed, **result}
    result["recovery_s"]["leader killed -> next job claimed"] = summary(asyncio.run(_leaders(given.leaders)))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "soak.json").write_text(json.dumps(result, indent=2) + "\n")
    for key, value in result.items():
        if isinstance(value, dict):
            print(key)
            for name, part in value.items():
                print(f"  {name:48} {_shown(part)}")
        else:
            print(f"{key:50} {len(value) if isinstance(value, list) else _shown(value)}")
    for what in ("lost", "doubled"):
        for line in result[what]:
            print(f"{what}: {line}")
    good = not (result["lost"] or result["doubled"] or result["left_in_queue"] or result["containers_left"])
    return 0 if good else 1


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
