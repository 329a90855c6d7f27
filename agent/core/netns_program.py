"""The program that keeps a network namespace: what it does, and its bytes for each machine.

Pure. It has to run in an image of its own, with nothing around it, so it is a few hundred bytes of machine code without
any library, and what it tells of is asked for by name, so that it never has to change:

    for ever:
        read a path of `PATH_BYTES` bytes, filled up with zeros, from the input
        if it is nothing but zeros, write what is told so far
        tell statx(path)                      `STATX_BYTES` bytes
        tell listxattr(path)                  names, each ended by a zero
        tell each read(open(path)) of up to 4 KiB, the last one too, which is 0 or an error
    (at the input's end: sleep for ever)

where to tell is to put down what the kernel returned, as a signed number of 8 bytes, and as many bytes if it is
positive; what is told is also written whenever it comes to 64 KiB. It runs as nobody, without a capability, and can do
nothing else. `docs/adr/0011-network-pool.md` has its source.
"""

from __future__ import annotations

import struct
from typing import Final

PATH_BYTES: Final = 64
STATX_BYTES: Final = 256

_BASE: Final = 0x400000
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_LOAD, _STACK, _READ, _WRITE, _EXECUTE = 1, 0x6474E551, 4, 2, 1

_CODE: Final = {
    "x86_64": (
        62,
        (
            "4881ec002001004989e66a40415d31db31c031ff498d341e6a405a29da0f0585c00f8e9100000001c383fb4072e24180"
            "3e007507e8a3000000ebd341c6463f006a9c5f4c89f631d241baff0700004f8d442e08b84c0100000f0585c07505b800"
            "010000e8570000004c89f74b8d742e08ba00100000b8c20000000f05e83e0000006a9c5f4c89f631d2b8010100000f05"
            "89c589ef4b8d742e08ba0010000031c00f05e8180000004d85e47fe689ef6a03580f05e956ffffff6a22580f05ebf949"
            "89c44b89042e31d24885c00f4fd0458d6c15084181fd000001007213498d7640418d55c06a40415d6a015f89f80f05c3"
        ),
    ),
    "aarch64": (
        183,
        (
            "ff4b40d1f6030091170880d2130080d2000080d2c102138b020880d2420013cbe80780d2010000d41f0000f1cd050054"
            "7302008b7f0201f1c3feff54c00240396000003537000094f1ffff17dffe0039600c8092e10316aa020080d2e3ff80d2"
            "c402178b84200091682480d2010000d4400000b5002080d222000094e00316aac102178b21200091020082d2680180d2"
            "010000d41b000094600c8092e10316aa020080d2080780d2010000d4f40300aae00314aac102178b21200091020082d2"
            "e80780d2010000d40e000094bf0200f10cffff54e00314aa280780d2010000d4cbffff17000080d2010080d2020080d2"
            "030080d2280980d2010000d4faffff17f50300aac06a37f81f0000f102c09f9af702028bf7220091ff4240f1e3000054"
            "c1020191e20201d1170880d2200080d2080880d2010000d4c0035fd6"
        ),
    ),
}
"""The ELF machine number and the code, by what the engine calls its architecture."""

ARCHITECTURES: Final = tuple(_CODE)


def program(architecture: str) -> bytes:
    """The executable for one of `ARCHITECTURES`."""
    machine, code = _CODE[architecture]
    text = bytes.fromhex(code)
    start = _HEADER.size + 2 * _SEGMENT.size
    size = start + len(text)
    return b"".join(
        (
            _HEADER.pack(
                b"\x7fELF\x02\x01\x01", 2, machine, 1, _BASE + start, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size,
                2, 64, 0, 0,
            ),
            _SEGMENT.pack(_LOAD, _READ | _EXECUTE, 0, _BASE, _BASE, size, size, 0x10000),
            _SEGMENT.pack(_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
            text,
        )
    )  # fmt: skip
