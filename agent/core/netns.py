"""Network namespaces that are kept ready for jobs: how their keepers are made, and what a job may have left in one.

Pure. A keeper is a container of the agent's own on the engine's bridge, which does nothing but hold its namespace. A
job that joins it has the namespace, and three files of the keeper's (`/etc/hosts`, `/etc/hostname`,
`/etc/resolv.conf`), to itself. Afterwards all that the kernel shows of these must be as it was before any job came, or
they are not used again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.core.netns_program import PATH_BYTES, STATX_BYTES, program
from agent.core.tar import END, file_header, padding
from launch.policy import POOLED_NETWORK
from launch.subjects import LABEL_AGENT, LABEL_KEEPER, LABEL_NETNS

FILES: Final = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""What a job shares with the keeper beside the namespace; its root may write them."""

VIEWS: Final = tuple(
    f"/proc/net/{name}"
    for name in (
        "sockstat", "sockstat6", "tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6",
        "unix", "packet",                                                    # sockets, whoever has them
        "snmp", "snmp6", "netstat",                                          # packets, connections, errors: counted
        "arp", "route", "ipv6_route", "if_inet6", "fib_trie",                # addresses, neighbours, ways
        "igmp", "igmp6", "mcfilter", "mcfilter6", "anycast6", "dev_mcast", "ip6_flowlabel",
        "ip_mr_vif", "ip_mr_cache",
    )
)  # fmt: skip
"""What the kernel shows of a namespace. One that it does not have is as absent after a job as before."""

MAX_KEPT: Final = 256
"""A bridge takes about a thousand; each costs some megabytes and an address."""
KEPT_A_SLOT: Final = 2
"""A job's namespace comes back once its end is recorded and its container removed, when its slot has had the next job
for long. Jobs that start together end together, so each slot needs two: with one and a half, an eighth found none."""

QUESTION: Final = b"".join(path.encode().ljust(PATH_BYTES, b"\0") for path in (*FILES, *VIEWS, ""))
"""What a keeper is asked, so that its answer makes a `State`."""
MAX_ANSWER_BYTES: Final = 512 * 1024
"""A fresh keeper's answer has about 20 KB; what is longer than this is not clean."""

IMAGE_NAME: Final = "launch-netns"
ABOUT: Final = "keeps a network namespace ready for a job of nats-launch; removed when its agent stops"
_PROGRAM: Final = "/keep"
_NUMBER: Final = struct.Struct("<q")
_ATTRIBUTES_TO_SIZE: Final = slice(0x08, 0x30)
_MODIFIED: Final = slice(0x70, 0x7C)
"""Of `struct statx`: attributes, links, user, group, mode, inode and size; then the time of the last change."""


class BadAnswer(ValueError):
    """What came back is no answer of a keeper."""


@dataclass(frozen=True, slots=True)
class State:
    """What a keeper tells of its namespace and files, by path; comparable."""

    seen: Mapping[str, object]

    def differences(self, other: State) -> tuple[str, ...]:
        """The paths that are not the same in both."""
        return tuple(path for path in self.seen if self.seen[path] != other.seen.get(path))


class AnswerParser:
    """Takes a keeper's answer to `QUESTION` in pieces of any size."""

    def __init__(self) -> None:
        self._parsing = _parsing()
        self._bytes = 0
        next(self._parsing)

    def feed(self, data: bytes) -> State | None:
        """The state, once all of it is there. Raises `BadAnswer`."""
        self._bytes += len(data)
        if self._bytes > MAX_ANSWER_BYTES:
            raise BadAnswer(f"more than {MAX_ANSWER_BYTES} bytes")
        try:
            self._parsing.send(data)
        except StopIteration as end:
            return State(end.value)
        return None


def pool_size(slots: int) -> int:
    """How many namespaces an agent with so many slots keeps."""
    return min(MAX_KEPT, KEPT_A_SLOT * slots)


def image_reference(architecture: str) -> str:
    """The keeper's image, named by what is in it."""
    return f"{IMAGE_NAME}:{hashlib.sha256(program(architecture)).hexdigest()[:12]}"


def image_tar(architecture: str) -> bytes:
    """Its root filesystem: one file."""
    text = program(architecture)
    return file_header(_PROGRAM.strip("/"), len(text), 0o555) + text + padding(len(text)) + END


def keeper_config(image: str, agent_id: str) -> dict[str, Any]:
    """The body of the engine's create call for a keeper."""
    return {
        "Image": image,
        "Cmd": [_PROGRAM],
        "User": "65534:65534",
        "Labels": {LABEL_AGENT: agent_id, LABEL_KEEPER: ABOUT},
        "OpenStdin": True,
        # Process 1 heeds no other signal, and there is nothing to wait for.
        "StopSignal": "SIGKILL",
        "HostConfig": {
            "NetworkMode": POOLED_NETWORK,
            "IpcMode": "none",
            "RestartPolicy": {"Name": "no"},
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            # What starts a container has some threads itself, before it becomes the program.
            "PidsLimit": 64,
            "LogConfig": {"Type": "none"},
        },
    }


def joinable(config: Mapping[str, Any]) -> bool:
    """Whether a job's container may have a keeper's namespace: it is on the keepers' network and can't change it.

    Capabilities that a job asked for, and devices, which may have networks of their own, are beyond what is compared.
    """
    host = config["HostConfig"]
    return host["NetworkMode"] == POOLED_NETWORK and not host.get("CapAdd") and not host.get("Devices")


def join(config: dict[str, Any], keeper: str) -> None:
    """Change a job's create body so that it has this keeper's namespace."""
    config["HostConfig"]["NetworkMode"] = f"container:{keeper}"
    config["Labels"][LABEL_NETNS] = keeper


def _parsing() -> Generator[None, bytes, dict[str, object]]:
    """Is sent the pieces of an answer; returns what it tells, by path."""
    waiting, seen = bytearray(), dict[str, object]()

    def told() -> Generator[None, bytes, tuple[int, bytes]]:
        """What the kernel returned once, and the bytes that came with it."""
        while len(waiting) < _NUMBER.size:
            waiting.extend((yield))
        (number,) = _NUMBER.unpack_from(waiting)
        if number > MAX_ANSWER_BYTES:
            raise BadAnswer(f"{number} bytes at once")
        end = _NUMBER.size + max(0, number)
        while len(waiting) < end:
            waiting.extend((yield))
        data = bytes(waiting[_NUMBER.size : end])
        del waiting[:end]
        return number, data

    for path in (*FILES, *VIEWS):
        found, statx = yield from told()
        if found > 0 and found != STATX_BYTES:
            raise BadAnswer(f"{path}: {found} bytes of status")
        extended, parts = (yield from told()), []
        while (part := (yield from told()))[0] > 0:
            parts.append(part[1])
        # The last number tells a file that has ended from one that can't be read.
        last, text = part[0], b"".join(parts)
        if path in FILES:
            seen[path] = (found, statx[_ATTRIBUTES_TO_SIZE], statx[_MODIFIED], extended, last, text)
        else:
            seen[path] = (last, _settled(path, text))
    if waiting:
        raise BadAnswer(f"{len(waiting)} bytes too many")
    return seen


def _settled(path: str, text: bytes) -> bytes:
    """What is the namespace's own of a view, without what other namespaces change.

    Of the counts of sockets those that are of the whole machine go. So do those of IPv6 packets that came in:
    containers that come and go beside it announce themselves to all.
    """
    lines = text.splitlines()
    if path.endswith("/sockstat"):
        kept = (b"used", b"inuse", b"tw")
        words = [line.split() for line in lines]
        return b"\n".join(
            b" ".join(
                (line[0], *(b"=".join(pair) for pair in zip(line[1::2], line[2::2], strict=True) if pair[0] in kept))
            )
            for line in words
        )
    if path.endswith("/snmp6"):
        return b"\n".join(line for line in lines if not line.startswith((b"Ip6In", b"Icmp6In")))
    return text
