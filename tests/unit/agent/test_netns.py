"""What a keeper tells, and its program; what really is left in a namespace is tried on an engine."""

from __future__ import annotations

import platform
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.core.netns import (
    FILES,
    MAX_ANSWER_BYTES,
    MAX_KEPT,
    VIEWS,
    AnswerParser,
    BadAnswer,
    State,
    image_reference,
    pool_size,
)
from agent.core.netns_program import ARCHITECTURES, PATH_BYTES, program

SOCKSTAT = b"sockets: used 1\nTCP: inuse 0 orphan %d tw %d alloc 9 mem 143\nUDP: inuse 0 mem 0\n"
SNMP6 = b"Ip6InReceives\t%d\nIp6OutRequests\t%d\nIcmp6InMsgs\t0\n"
USUAL = {
    "/etc/hosts": b"127.0.0.1 localhost\n",
    "/proc/net/tcp": b"  sl  local_address\n",
    "/proc/net/sockstat": SOCKSTAT % (0, 0),
    "/proc/net/snmp6": SNMP6 % (0, 0),
}


def told(number: int, data: bytes = b"") -> bytes:
    return struct.pack("<q", number) + data


def status(*, mode: int = 0o644, modified: int = 5, changed: int = 5) -> bytes:
    made = bytearray(256)
    struct.pack_into("<H", made, 0x1C, mode)
    struct.pack_into("<q", made, 0x60, changed)
    struct.pack_into("<q", made, 0x70, modified)
    return bytes(made)


def answer(
    content: Mapping[str, bytes] = {}, *, hosts: bytes = status(), attributes: bytes = b"", last: Mapping[str, int] = {}
) -> bytes:
    """A keeper's answer; `hosts` and `attributes` are of the first file, `last` what reading ends with."""
    parts = []
    for path in (*FILES, *VIEWS):
        parts += [told(256, hosts if path == "/etc/hosts" else status())]
        parts += [told(len(attributes), attributes) if path == "/etc/hosts" else told(0)]
        if text := {**USUAL, **content}.get(path, b""):
            parts += [told(len(text), text)]
        parts += [told(last.get(path, 0))]
    return b"".join(parts)


def state(data: bytes, cut: int = 2**20) -> State:
    parser = AnswerParser()
    *before, final = [parser.feed(data[at : at + cut]) for at in range(0, len(data), cut)]
    assert not any(before)
    assert final is not None
    return final


FRESH = state(answer())


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_an_answer_may_come_in_any_pieces(cut: int) -> None:
    assert state(answer(), cut) == FRESH
    assert FRESH.differences(FRESH) == ()


@pytest.mark.parametrize(
    ("later", "where"),
    [
        (answer({"/etc/hosts": b"127.0.0.1 localhose\n"}), "/etc/hosts"),
        (answer(hosts=status(mode=0o600)), "/etc/hosts"),
        (answer(hosts=status(modified=6)), "/etc/hosts"),
        (answer(attributes=b"user.evil\0"), "/etc/hosts"),
        (answer(last={"/etc/hosts": -13}), "/etc/hosts"),
        (answer({"/proc/net/tcp": b"  sl  local_address\n  0: 0100007F\n"}), "/proc/net/tcp"),
        (answer({"/proc/net/unix": b"@evil\n"}), "/proc/net/unix"),
        (answer({"/proc/net/sockstat": SOCKSTAT % (0, 1)}), "/proc/net/sockstat"),
        (answer({"/proc/net/snmp6": SNMP6 % (0, 1)}), "/proc/net/snmp6"),
        (answer(last={"/proc/net/arp": -2}), "/proc/net/arp"),
    ],
)
def test_every_trace_is_told(later: bytes, where: str) -> None:
    assert FRESH.differences(state(later)) == (where,)


@pytest.mark.parametrize(
    "later",
    [
        answer({"/proc/net/sockstat": SOCKSTAT % (7, 0)}),
        answer({"/proc/net/snmp6": SNMP6 % (7, 0)}),
        answer(hosts=status(changed=6)),  # the engine gives the files to root anew whenever a container joins
    ],
)
def test_what_others_change_is_no_trace(later: bytes) -> None:
    assert FRESH.differences(state(later)) == ()


@pytest.mark.parametrize(
    "data", [told(255, bytes(255)), told(2**40), answer() + b"x", answer({"/etc/hosts": bytes(MAX_ANSWER_BYTES)})]
)
def test_what_makes_no_sense_is_refused_within_bounds(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerParser().feed(data)


def test_the_pool_is_twice_the_slots_and_bounded() -> None:
    assert [pool_size(slots) for slots in (1, 4, 8, 10_000)] == [2, 8, 16, MAX_KEPT]


def test_the_programs_are_static_executables_of_their_machines() -> None:
    for machine, number in zip(ARCHITECTURES, (62, 183), strict=True):
        made = program(machine)
        assert made[:6] == b"\x7fELF\x02\x01"
        assert struct.unpack_from("<H", made, 18) == (number,)
        assert len(made) < 512
    assert len({image_reference(machine) for machine in ARCHITECTURES}) == 2


@pytest.mark.skipif(platform.machine() not in ARCHITECTURES, reason="there is no program for this machine")
def test_the_program_tells_what_it_is_asked(tmp_path: Path) -> None:
    path, file, absent = tmp_path / "keep", tmp_path / "f", b"/no/such"
    path.write_bytes(program(platform.machine()))
    path.chmod(0o755)
    file.write_bytes(b"x" * 5000)
    file.chmod(0o640)
    if len(str(file)) >= PATH_BYTES:
        file = file.rename(f"/tmp/{tmp_path.name}"[: PATH_BYTES - 1])
    asked = b"".join(name.ljust(PATH_BYTES, b"\0") for name in (str(file).encode(), absent, b""))
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            # In two parts: it waits for all of a path.
            keeper.stdin.write(asked[:100])
            keeper.stdin.flush()
            keeper.stdin.write(asked[100:])
            keeper.stdin.flush()
            number, made = struct.unpack("<q256s", keeper.stdout.read(264))
            assert (number, struct.unpack_from("<H", made, 0x1C)[0] & 0o7777) == (256, 0o640)
            assert keeper.stdout.read(8) == told(0)
            parts = told(4096, b"x" * 4096) + told(904, b"x" * 904) + told(0)
            assert keeper.stdout.read(len(parts)) == parts
            assert keeper.stdout.read(24) == told(-2) + told(-2) + told(-9)
            keeper.stdin.close()
            assert keeper.poll() is None
        finally:
            keeper.kill()
