r"""What others wrote, on the user's terminal and in a pipe: seen as what it is, or harmless, and exact as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client as NatsClient

from launch.adapters.nats import NatsBroker, connect
from launch.cli import output
from launch.core.shown import json_text, lines, one_line, unturned
from launch.subjects import JobId
from tests.contract.broker_world import presence, record
from tests.hostile.lab import queue_spec

BAD = "agent\x1b]52;c;aGk=\x07\x1b[2J\x9b1A"
TURNED = "\u202egpj.exe\u202c"
FORGED = f"fine\nstate:       succeeded\r\x1b[1A{TURNED}\u200b\ufeff\u2028"
"""Says two lines, the second of which looks like a fact; goes back, up, and turns the direction of writing."""
UNSEEN = set("\u202e\u202c\u200b\ufeff\u2028\x9b\x07\x1b")


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_line_is_made_harmless_on_a_terminal_and_kept_in_a_pipe() -> None:
    screen, pipe = _Screen(), io.StringIO()
    output.write(BAD, screen)
    output.write(BAD, pipe)
    assert screen.getvalue() == "agent1A\n"
    assert pipe.getvalue() == f"{BAD}\n"


def test_a_jobs_line_can_not_turn_the_direction_of_writing_on_a_terminal() -> None:
    assert output.harmless(f"a{TURNED}") == "a\\u202egpj.exe\\u202c"
    emoji = "\U0001f469\u200d\U0001f4bb \u05e9\u05dc\u05d5\u05dd caf\u00e9"
    assert output.harmless(emoji) == emoji


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_is_shown_is_one_line_that_can_be_seen(text: str) -> None:
    assert one_line(text).isprintable()
    assert text not in (one_line(text), "") or text.isprintable()
    assert "\n" not in lines(text, 4).replace("\n    ", "")
    assert not UNSEEN & set(unturned(text)) - set("\x9b\x07\x1b")
    assert json.loads(json_text(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}
    assert json_text(json.dumps(text, ensure_ascii=False)).isprintable()


# -- the commands -----------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a command printed, to a pipe or to a terminal."""

    url: str
    home: Path

    async def __call__(self, *words: str, code: int = 0, terminal: bool = False) -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_"))}
        env |= {"HOME": str(self.home), "NATS_URL": self.url, "COLUMNS": "500", "TERM": "xterm"}
        ours, theirs = pty.openpty() if terminal else os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "launch", *words, stdin=DEVNULL, stdout=theirs, stderr=theirs, env=env
        )
        os.close(theirs)
        text = await asyncio.to_thread(_read_all, ours)
        assert await asyncio.wait_for(process.wait(), 30) == code, text
        return text.decode(errors="surrogateescape")


def _read_all(source: int) -> bytes:
    found = b""
    with os.fdopen(source, "rb", buffering=0) as file:
        while True:
            try:
                piece = file.read(65536)
            except OSError:  # how a terminal says that nobody writes any more
                return found
            if not piece:
                return found
            found += piece


@dataclass
class World:
    """One queue whose job, agent and points have been written by somebody who wants to mislead."""

    queue: str
    broker: NatsBroker
    told: Told

    @property
    def job(self) -> JobId:
        return JobId(self.queue, 1)


@pytest.fixture
async def world(nats_url: str, queue_name: str, tmp_path: Path) -> AsyncIterator[World]:
    broker, stranger = await connect(nats_url, name="test"), await nats.connect(nats_url)
    await broker.queues.apply(queue_spec(queue_name))
    agent = f"{queue_name}-a"
    try:
        await _mislead(broker, stranger, queue_name, agent)
        yield World(queue_name, broker, Told(nats_url, tmp_path))
    finally:
        await broker.agents.remove(agent)
        await broker.queues.delete(queue_name)
        await stranger.close()
        await broker.close()


async def _mislead(broker: NatsBroker, stranger: NatsClient, queue: str, agent: str) -> None:
    job = JobId(queue, 1)
    await stranger.request(f"queue.{queue}.tr\u202eain\x1b[2J", b"{}")
    made = record(job).model_dump(mode="json")
    made["spec"] = {
        "image": "busybox:1",
        "name": FORGED,
        "command": ["sh", "-c", FORGED],
        "labels": {"k": "v"},
    }
    made |= {"job_type": f"train{TURNED}", "agent": FORGED, "digest": FORGED, "state": "failed", "message": FORGED}
    made |= {"reason": "exit_nonzero", "exit_code": 1, "finished_at": made["updated_at"], "container": FORGED}
    await stranger.request(f"$KV.jobs.{job.key}", json.dumps(made).encode())
    here = json.loads(presence(agent, queue).model_dump_json()) | {"holds": [FORGED]}
    await stranger.request(f"$KV.agents.{agent}", json.dumps(here).encode())


COMMANDS = [("show", "{job}"), ("jobs", "-q", "{queue}"), ("agents", "-q", "{queue}"), ("queue", "show", "{queue}")]


@pytest.mark.nats
@pytest.mark.parametrize("terminal", [False, True])
async def test_no_command_shows_what_can_not_be_seen_or_forges_a_line(world: World, terminal: bool) -> None:
    for command in COMMANDS:
        words = [word.format(job=world.job, queue=world.queue) for word in command]
        text = await world.told(*words, terminal=terminal)
        rest = text
        for colour in ("\x1b[0m", "\x1b[1m", "\x1b[1;31m", "\x1b[31m", "\x1b[32m", "\x1b[33m"):  # rich's own
            rest = rest.replace(colour, "")
        assert not UNSEEN & set(rest), (command, text)
        assert not any(line.startswith("state:       succeeded") for line in rest.splitlines()), (command, text)
        assert "\\u202e" in rest, (command, text)


@pytest.mark.nats
@pytest.mark.parametrize("terminal", [False, True])
async def test_as_json_it_is_exact(world: World, terminal: bool) -> None:
    text = await world.told("show", str(world.job), "--json", terminal=terminal)
    assert not UNSEEN & set(text)
    found = json.loads(text)
    assert (found["message"], found["spec"]["name"], found["agent"]) == (FORGED, FORGED, FORGED)


@pytest.mark.nats
async def test_errors_show_what_was_asked_for_as_it_is(world: World) -> None:
    for words in (["show", f"x{FORGED}"], ["queue", "show", FORGED], ["submit", f"/nowhere/{FORGED}.yaml", "-q", "q"]):
        text = await world.told(*words, code=1)
        assert not UNSEEN & set(text), text
        assert "Traceback" not in text
