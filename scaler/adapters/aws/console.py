"""What can be told of an instance that came to nothing: why EC2 ended it, and the end of its console."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any

from scaler.adapters.aws.client import Ec2, Refused
from scaler.adapters.aws.mirror import instance_of, reason_in

LIMIT_S = 8.0
MAX_LINES = 15
MAX_LINE = 300
MARK = "nats-launch: "
"""What the boot script begins its lines with."""

_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


async def story_of(ec2: Ec2, instance_id: str, known: str | None, *, ours: bool = False) -> str:
    """For people; always begins with the id. Bounded; never raises.

    `known`: why it is gone, if that is known, and empty if that is no news. `ours`: this process asked for its end.
    """
    parts = [known] if known else []
    with suppress(TimeoutError, Refused):
        async with asyncio.timeout(LIMIT_S):
            if known is None:
                parts.append(await _reason(ec2, instance_id, ours=ours))
            if tail := console_tail(await _console(ec2, instance_id)):
                parts.append(f"its console ends with: {tail}")
    told = "; ".join(part for part in parts if part)
    return f"{instance_id}: {told}" if told else instance_id


async def _reason(ec2: Ec2, instance_id: str, *, ours: bool) -> str:
    answer = await ec2.call("describe_instances", tries=2, Filters=[{"Name": "instance-id", "Values": [instance_id]}])
    items = [item for reservation in answer["Reservations"] for item in reservation["Instances"]]
    # Of one that runs there is nothing to tell.
    return reason_in(items[0], ours=ours) if items and instance_of(items[0]) is None else ""


async def _console(ec2: Ec2, instance_id: str) -> str:
    """The latest, which only newer types can give; else what EC2 kept of the boot."""
    try:
        answer: Any = await ec2.call("get_console_output", tries=2, InstanceId=instance_id, Latest=True)
    except Refused as refused:
        if not refused.fault.code.startswith(("Unsupported", "InvalidParameter")):
            raise
        answer = {}
    if not answer.get("Output"):
        answer = await ec2.call("get_console_output", tries=2, InstanceId=instance_id)
    return str(answer.get("Output") or "")


def console_tail(text: str) -> str:
    """The end of a console, without what terminals do: of what the boot script wrote, if it got so far.

    What is there several times, as of each new try, is told once: where it was last.
    """
    plain = _CONTROL.sub("", _ESCAPE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    lines = [line.strip() for line in plain.split("\n") if line.strip()]
    ours = [line[line.index(MARK) + len(MARK) :] for line in lines if MARK in line]
    last = list(dict.fromkeys(reversed(ours or lines)))[:MAX_LINES]
    return "\n".join(line[:MAX_LINE] for line in reversed(last))
