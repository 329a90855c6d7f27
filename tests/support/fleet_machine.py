"""One machine of the test fleet: boots, runs its user data, answers its commands, and dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from tests.support.docker_run import DockerRun, parse
from tests.support.ec2_faults import Ec2Instance
from tests.support.fleet_agent import AgentCall, RunningAgent
from tests.support.machine_commands import Said

if TYPE_CHECKING:
    from tests.support.fleet import Fleet

ANSWERED = ("docker", "aws", "shutdown", "poweroff", "halt")
"""Commands that do something."""
IGNORED = ("systemctl", "service", "yum", "dnf", "apt-get", "apt", "amazon-linux-extras", "usermod", "groupadd",
           "useradd", "chown", "nvidia-ctk", "nvidia-smi", "modprobe", "sysctl", "mount", "mkfs", "reboot", "sync",
           "hostnamectl", "snap", "logger")  # fmt: skip
_FOLDERS = ("etc", "var/lib", "var/log", "var/run", "opt", "run", "root", "srv", "mnt")
_ABSOLUTE = re.compile(r"(?<![\w./:@-])/(etc|var|opt|run|root|srv|mnt)(?=[/\s\"'])")
RESTART_LIMIT = 5
CONSOLE_BYTES = 64 * 1024
"""As much as EC2 keeps."""


class Machine:
    """One instance's insides."""

    def __init__(self, instance: Ec2Instance, user_data: str, folder: Path, fleet: Fleet) -> None:
        self.instance = instance
        self.folder = folder
        self._off = asyncio.Event()
        self.taken_at: float | None = None
        self.booted_at: float | None = None
        """When the user data began, as of `time.time`."""
        self.agents: list[AgentCall] = []
        """Every agent that was started here, the latest last."""
        self._user_data = user_data
        self._fleet = fleet
        self._script: Process | None = None
        self._containers: dict[str, RunningAgent] = {}
        self._ended: dict[str, asyncio.Future[int]] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Lock()

    @property
    def on(self) -> bool:
        """Neither killed nor on the way there."""
        return not self._off.is_set()

    @property
    def name(self) -> str:
        """The instance's id."""
        return self.instance.id

    @property
    def said(self) -> str:
        """What is on the console."""
        return self._fleet.proxy.console.get(self.name, "")

    async def live(self, boot_s: float) -> None:
        """Boot, and run the user data to its end."""
        await asyncio.sleep(boot_s)
        if self._off.is_set():
            return
        self.booted_at = time.time()
        root = self.folder / "root"
        for folder in _FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
        commands = self.folder / "bin"
        self._fleet.commands.install(self.name, commands, ANSWERED, self._answer)
        for name in IGNORED:
            (commands / name).write_text("#!/bin/sh\nexit 0\n")
            (commands / name).chmod(0o755)
        script = self.folder / "user-data"
        script.write_text(_ABSOLUTE.sub(lambda found: f"{root}/{found[1]}", self._user_data))
        self._script = await asyncio.create_subprocess_exec(
            "bash",
            str(script),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=root,
            env={
                "PATH": f"{commands}:/usr/bin:/bin",
                "HOME": str(root / "root"),
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self._fleet.metadata.address(self.name),
            },
            start_new_session=True,
        )
        if self._off.is_set():  # It ended while the process was being made.
            self.kill()
        assert self._script.stdout is not None
        async for line in self._script.stdout:
            self._say(line.decode(errors="replace"))
        code = await self._script.wait()
        if not self._off.is_set() and code != 0:
            self._say(f"user data ended with exit code {code}\n")

    def kill(self) -> None:
        """The power goes off."""
        self._off.set()
        if self._script is not None and self._script.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._script.pid, signal.SIGKILL)
        for container in self._containers.values():
            container.kill()

    async def end(self) -> None:
        """Once killed: nothing is left of it when this returns. Idempotent."""
        self.kill()
        await self._fleet.commands.forget(self.name)
        async with self._ending:
            self.kill()  # What was being started meanwhile, too.
            while self._watchers:
                await asyncio.wait(self._watchers)
            while self._containers:
                _, container = self._containers.popitem()
                await container.wait()
                await container.clean_up()

    async def kill_agent(self) -> None:
        """The agents here die without a word; their containers go on."""
        for container in list(self._containers.values()):
            container.kill()
            await container.wait()

    def _say(self, line: str) -> None:
        """On the console, of which the end is kept."""
        proxy = self._fleet.proxy
        proxy.console[self.name] = (self.said + line)[-CONSOLE_BYTES:]
        proxy.changed.set()

    # -- its commands -----------------------------------------------------------------------------------------------

    async def _answer(self, name: str, words: Sequence[str]) -> Said:
        match name:
            case "docker":
                said = await self._docker(list(words))
            case "aws":
                said = await asyncio.to_thread(self._aws, [word for word in words if word != "--with-decryption"])
            case _ if "-c" in words:
                said = Said()  # A shutdown is called off.
            case _:
                await self._fleet.proxy.shut_down(self.name)
                said = Said()
        return said

    def _aws(self, words: list[str]) -> Said:
        """The few calls that user data makes; blocks, so it runs in a thread."""
        options = {name: value for name, value in pairwise(words) if name.startswith("--")}

        def client(service: str) -> Any:
            import boto3

            return boto3.client(
                service,
                endpoint_url=self._fleet.proxy.url,
                region_name=options.get("--region", self.instance.region),
                aws_access_key_id="testing",
                aws_secret_access_key="testing",
            )

        try:
            match words[:2]:
                case ["ssm", "get-parameter"]:
                    found = client("ssm").get_parameter(Name=options["--name"], WithDecryption=True)
                    return Said(out=found["Parameter"]["Value"] + "\n")
                case ["secretsmanager", "get-secret-value"]:
                    found = client("secretsmanager").get_secret_value(SecretId=options["--secret-id"])
                    return Said(out=found["SecretString"] + "\n")
                case ["ecr", "get-login-password"]:
                    return Said(out="ecr-password\n")
        except ClientError as error:
            return Said(254, err=f"{error}\n")
        return Said(252, err=f"aws: the test fleet does not know {' '.join(words)}\n")

    async def _docker(self, words: list[str]) -> Said:
        while words and words[0].startswith("-"):  # Such as --config DIR, before the command.
            words = words[1:] if "=" in words[0] else words[2:]
        match words:
            case ["pull", *rest]:
                return self._pull(rest[-1])
            case ["image", "inspect", *rest]:
                return Said(1 if rest[-1] in self._fleet.bad_images else 0)
            case ["run", *rest]:
                return await self._run(parse(rest))
            case ["wait", *names]:
                return Said(out="".join([f"{await self._exit_of(name)}\n" for name in names]))
            case ["stop" | "kill" | "rm", *rest]:
                return await self._remove([word for word in rest if not word.startswith("-")])
            case ["logs", *_]:
                log = self.folder / "agent.log"
                return Said(err=log.read_text(errors="replace") if log.exists() else "")
            case ["login" | "info" | "version" | "ps" | "image" | "images" | "network" | "volume", *_]:
                return Said()
        return Said(1, err=f"docker: the test fleet does not know {' '.join(words)}\n")

    def _pull(self, image: str) -> Said:
        if image not in self._fleet.bad_images:
            return Said(out=f"{image}\n")
        name, _, tag = image.rpartition(":")
        why = f"manifest for {name}:{tag} not found: manifest unknown: manifest unknown"
        return Said(1, err=f"Error response from daemon: {why}\n")

    async def _run(self, run: DockerRun) -> Said:
        pulled = self._pull(run.image)
        if pulled.code:
            return Said(125, err=f"Unable to find image '{run.image}' locally\ndocker: {pulled.err}")
        if run.options.get("--entrypoint") or run.words[:1] != ["agent"]:
            return Said(126, err=f"docker: the test fleet runs agents, not {' '.join(run.words)}\n")
        name = run.name or f"c{len(self.agents)}"
        if name in self._ended and not self._ended[name].done():
            return Said(125, err=f'docker: Error response from daemon: Conflict. The name "/{name}" is in use.\n')
        self._ended[name] = asyncio.get_running_loop().create_future()
        watcher = asyncio.get_running_loop().create_task(self._keep_running(name, run), name=f"container {name}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return Said(out=f"{'0' * 64}\n") if run.detached else Said(await self._exit_of(name))

    async def _keep_running(self, name: str, run: DockerRun) -> None:
        """An agent in its container, with its restart policy."""
        call = self._call(run)
        policy = next(iter(run.options.get("--restart", ["no"]))).partition(":")[0]
        code, starts = 0, 0
        while not self._off.is_set() and not self._ended[name].done():
            self.agents.append(call)
            container = await self._fleet.start_agent(call)
            self._containers[name] = container
            if self._off.is_set():
                container.kill()
            code = await container.wait()
            starts += 1
            again = policy in ("always", "unless-stopped") or (policy == "on-failure" and code != 0)
            if not again or starts >= RESTART_LIMIT:
                break
            await asyncio.sleep(0.1)
        if not self._ended[name].done():
            self._ended[name].set_result(code)

    def _call(self, run: DockerRun) -> AgentCall:
        words = (*(run.on_host(word) for word in run.words), *self._fleet.agent_options)
        env = {key: run.on_host(value) for key, value in run.env.items()}
        env |= {
            "HOME": str(self.folder),
            "LAUNCH_DATA_DIR": str(self.folder),
            "LAUNCH_LOG_FORMAT": "json",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self._fleet.metadata.address(self.name),
            "AWS_ENDPOINT_URL": self._fleet.proxy.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            **self._fleet.agent_env,
        }
        return AgentCall(words, env, self.folder, run)

    async def _exit_of(self, name: str) -> int:
        ended = self._ended.get(name)
        return await asyncio.shield(ended) if ended is not None else 1

    async def _remove(self, names: list[str]) -> Said:
        for name in names:
            ended = self._ended.get(name)
            if ended is not None and not ended.done():
                ended.set_result(137)
            if name in self._containers:
                self._containers[name].kill()
                await self._containers[name].wait()
        return Said()
