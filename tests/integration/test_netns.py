"""Network namespaces that are kept ready, on a real engine: what one job leaves is nothing to the next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from agent.adapters.docker import DockerEngine
from agent.core.container import ContainerPolicy, container_config
from agent.netns import NetworkPool
from launch.job import JobSpec
from launch.subjects import LABEL_AGENT, LABEL_KEEPER, JobId, container_name
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("error")]

LIMIT_S = 30.0


@dataclass
class Lab:
    """An engine, and an agent's id, without the agent."""

    engine: DockerEngine
    image: str
    agent_id: str
    queue: str
    made: int = 0

    @asynccontextmanager
    async def pool(self, size: int) -> AsyncIterator[NetworkPool]:
        """A pool that has made what it can; it is not closed at the end."""
        info = await self.engine.info()
        pool = NetworkPool(self.engine, self.agent_id, size=size, machine=info.machine)
        pool.adopt(await self.engine.list({LABEL_AGENT: self.agent_id}))
        running = asyncio.create_task(pool.run())
        try:
            await asyncio.wait_for(pool.settled(), LIMIT_S)
            yield pool
        finally:
            running.cancel()
            await asyncio.wait({running})

    async def begin(self, pool: NetworkPool, script: str, **spec: Any) -> str:
        """Start a container as the agent does for a job; its name."""
        self.made += 1
        wanted = JobSpec(job_type="t", image=self.image, command=("sh", "-c", script), **spec)
        job = JobId(self.queue, self.made)
        config = container_config(wanted, job, 1, self.agent_id, "", ContainerPolicy(), (), env={})
        name = container_name(job, 1)
        pool.join(name, config)
        await self.engine.create(name, config)
        await self.engine.start(name)
        return name

    async def end(self, pool: NetworkPool, name: str) -> str:
        """Wait for it, and take its namespace back; what it said."""
        async with asyncio.timeout(LIMIT_S):
            await self.engine.wait(name)
        said = b"".join([frame.data async for frame in self.engine.logs(name, since=None, follow=False)])
        await self.engine.remove(name)
        await pool.part(name)
        return said.decode()

    async def run(self, pool: NetworkPool, script: str, **spec: Any) -> tuple[str, str]:
        """Begin and end; the network mode that it had, and what it said."""
        name = await self.begin(pool, script, **spec)
        mode = network_of(name)
        return mode, await self.end(pool, name)

    def keepers(self) -> set[str]:
        """The ids of the keepers that are there."""
        found = engine.containers(f"{LABEL_AGENT}={self.agent_id}")
        return {one["Id"] for one in found if LABEL_KEEPER in one["Labels"]}


def network_of(container: str) -> str:
    return str(engine.inspect(container)["HostConfig"]["NetworkMode"])


@pytest.fixture
async def lab(
    docker_host: str, busybox_image: str, queue_name: str, remove_containers: Callable[[str], None]
) -> AsyncIterator[Lab]:
    agent_id = f"{queue_name}-agent"
    for one in (agent_id, f"{agent_id}-other"):
        remove_containers(f"{LABEL_AGENT}={one}")
    docker = DockerEngine(docker_host)
    yield Lab(docker, busybox_image, agent_id, queue_name)
    await docker.close()


LOOK = """cat /etc/hosts /etc/resolv.conf /etc/hostname /proc/net/tcp /proc/net/udp /proc/net/arp
ls -l /etc/hosts /etc/resolv.conf; ip -o addr; ip route"""
"""What a job can see of the job before."""


async def test_a_namespace_is_used_again_and_shows_nothing_of_the_job_before(lab: Lab) -> None:
    async with lab.pool(1) as pool:
        mode, first = await lab.run(pool, LOOK)
        assert mode == f"container:{lab.keepers().pop()}"
        assert "eth0" in first
        assert await lab.run(pool, LOOK) == (mode, first)
        assert pool.ready == 1


async def test_no_two_jobs_share_one_and_without_one_a_job_is_on_the_bridge(lab: Lab) -> None:
    async with lab.pool(2) as pool:
        names = [await lab.begin(pool, "ip -o -4 addr show eth0") for _ in range(3)]
        modes = [network_of(name) for name in names]
        assert set(modes) == {*(f"container:{keeper}" for keeper in lab.keepers()), "bridge"}
        assert len(set(modes)) == 3
        assert len({await lab.end(pool, name) for name in names}) == 3
        assert pool.ready == 2


TRACES = {
    "a name in hosts": "echo 6.6.6.6 evil >> /etc/hosts",
    "hosts of the same size and time": """
        touch -r /etc/hosts /t; sed s/localhost/evilhosts/ /etc/hosts > /n; cat /n > /etc/hosts; touch -r /t /etc/hosts
    """,
    "another resolver": "echo nameserver 6.6.6.6 > /etc/resolv.conf",
    "another hostname": "echo evil > /etc/hostname",
    "a file that others can't read": "chmod 600 /etc/resolv.conf",
    "a file of another user": "chown 1000 /etc/hosts",
    "an empty file": ": > /etc/resolv.conf",
    "a file without end": "yes > /etc/hosts & while [ $(wc -c < /etc/hosts) -lt 9999 ]; do :; done; kill $!",
    "a neighbour": "nc -w 1 $(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p') 1; true",
    "a connection within": """
        nc -l -p 99 < /dev/null & while ! nc -w 1 127.0.0.1 99 < /dev/null; do :; done; wait
    """,
    "a failed connection": "nc -w 1 127.0.0.1 1; true",
}  # fmt: skip


@pytest.mark.parametrize("script", TRACES.values(), ids=TRACES)
async def test_one_with_any_trace_of_a_job_is_thrown_away(lab: Lab, script: str) -> None:
    async with lab.pool(1) as pool:
        [used] = lab.keepers()
        mode, _ = await lab.run(pool, script)
        assert (mode, pool.ready) == (f"container:{used}", 0)


async def test_what_listens_ends_with_its_job(lab: Lab) -> None:
    async with lab.pool(1) as pool:
        listen = "nc -ll -p 99 -e true & while ! grep -q :0063 /proc/net/tcp*; do :; done; echo up"
        mode, said = await lab.run(pool, listen)
        assert (await lab.run(pool, listen), said) == ((mode, "up\n"), "up\n"), "the port is free again"


async def test_a_job_can_not_change_the_namespace_itself(lab: Lab) -> None:
    tries = (
        "ip link set eth0 down", "ip addr add 10.9.9.9/24 dev eth0", "ip route add 10.9.9.0/24 dev lo",
        "ip link add x type dummy", "echo 1 > /proc/sys/net/ipv4/ip_forward", "mount -o remount,rw /proc/sys",
        "sysctl -w net.ipv4.ip_unprivileged_port_start=5", "hostname evil", "arping -c 1 -I eth0 6.6.6.6",
        "unshare -rn true", "umount /etc/hosts", "rm /etc/hosts", "mv /etc/hosts /h",
    )  # fmt: skip
    async with lab.pool(1) as pool:
        [used] = lab.keepers()
        _, said = await lab.run(pool, "\n".join(f"({one}) >/dev/null 2>&1 && echo '{one}'" for one in tries))
        assert said == ""
        assert lab.keepers() == {used}
        assert pool.ready == 1


async def test_an_end_for_want_of_memory_leaves_the_namespace_as_it_was(lab: Lab) -> None:
    async with lab.pool(1) as pool:
        name = await lab.begin(pool, "tail /dev/zero", resources={"memory": "16Mi"})
        await lab.engine.wait(name)
        seen = await lab.engine.inspect(name)
        assert seen is not None
        assert seen.oom_killed
        await lab.end(pool, name)
        assert pool.ready == 1


async def test_one_whose_job_could_not_be_removed_is_thrown_away(lab: Lab) -> None:
    async with lab.pool(1) as pool:
        [used] = lab.keepers()
        name = await lab.begin(pool, "sleep 60")
        await pool.part(name)
        assert pool.ready == 0
        await pool.settled()
        assert pool.ready == 1
        assert used not in lab.keepers()


async def test_a_keeper_that_ends_is_replaced(lab: Lab) -> None:
    async with lab.pool(2) as pool:
        name = await lab.begin(pool, "exec sleep 60")
        before = lab.keepers()
        for keeper in before:
            await lab.engine.signal(keeper, "SIGKILL")
        async with asyncio.timeout(LIMIT_S):
            while not lab.keepers() - before or pool.ready == 0:  # noqa: ASYNC110  # the engine tells the pool alone
                await asyncio.sleep(0.01)
        await lab.engine.signal(name, "SIGKILL")
        await lab.end(pool, name)
        await pool.settled()
        assert pool.ready == 2
        assert not lab.keepers() & before


async def test_a_keeper_can_do_nothing_else(lab: Lab) -> None:
    async with lab.pool(1):
        [keeper] = lab.keepers()
        found = engine.inspect(keeper)
        host = found["HostConfig"]
        assert (host["CapDrop"], host["CapAdd"], host["ReadonlyRootfs"], host["Privileged"]) == (
            ["ALL"],
            None,
            True,
            False,
        )
        assert (found["Config"]["User"], host["SecurityOpt"], found["Mounts"]) == (
            "65534:65534",
            ["no-new-privileges"],
            [],
        )
        assert "network namespace" in found["Config"]["Labels"][LABEL_KEEPER]
        status, body = engine.call("GET", f"/containers/{keeper}/stats", {"stream": "false", "one-shot": "true"})
        assert status == 200
        assert json.loads(body)["pids_stats"]["current"] == 1
        usage = await lab.engine.usage(keeper)
        assert usage is None or usage.memory_bytes < 2**20


async def test_the_next_process_takes_over_what_is_in_use_and_removes_the_rest(lab: Lab) -> None:
    other = Lab(lab.engine, lab.image, f"{lab.agent_id}-other", lab.queue, made=100)
    async with other.pool(1) as others:
        async with lab.pool(2) as pool:
            name = await lab.begin(pool, "exec sleep 60")
        before, used = lab.keepers(), network_of(name).removeprefix("container:")
        async with lab.pool(2) as pool:
            # One of the two that it may have is still the old job's.
            assert lab.keepers() & before == {used}
            await lab.engine.signal(name, "SIGKILL")
            await lab.end(pool, name)
            await pool.settled()
            assert pool.ready == 2
            assert used not in lab.keepers(), "what nobody has seen before its job is not used again"
        await pool.close()
        assert lab.keepers() == set()
        assert len(other.keepers()) == others.ready == 1, "another agent's are left alone"
    await others.close()
