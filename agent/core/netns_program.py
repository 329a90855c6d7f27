"""The program that keeps a network namespace: what it does, and its bytes for each machine.

Pure. It has to run in an image of its own, with nothing around it, so it is a few hundred bytes of machine code without
any library, and what it tells of is asked for by name, so that it never has to change:

    for ever:
        read a path of `PATH_BYTES` bytes, filled up with zeros, from the input
        tell statx(path)                      `STATX_BYTES` bytes
        tell listxattr(path)                  names, each ended by a zero
        tell each read(open(path)) of up to 4 KiB, the last one too, which is 0 or an error
    (at the input's end: sleep for ever)

where to tell is to write what the kernel returned, as a signed number of 8 bytes, and as many bytes if it is positive.
It runs as nobody, without a capability, and can do nothing else. `docs/adr/0010-network-pool.md` has its source.
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
            "4881ec0020000031db31c031ff488d341c6a405a29da0f0585c00f8e8400000001c383fb4072e2c644243f006a9c5f48"
            "89e631d241baff0700004c8d442448b84c0100000f0585c07505b800010000e8570000004889e7488d742448ba001000"
            "00b8c20000000f05e83e0000006a9c5f4889e631d2b8010100000f0589c589ef488d742448ba0010000031c00f05e818"
            "0000004d85e47fe689ef6a03580f05e963ffffff6a22580f05ebf94989c4488944244831d24885c00f4fd083c208488d"
            "7424486a015f89f80f05c3"
        ),
    ),
    "aarch64": (
        183,
        (
            "ff0b40d1130080d2000080d2e163338b020880d2420013cbe80780d2010000d41f0000f1ed0400547302008b7f0201f1"
            "c3feff54ffff0039600c8092e1030091020080d2e3ff80d2e4230191682480d2010000d4400000b5002080d220000094"
            "e0030091e1230191020082d2680180d2010000d41a000094600c8092e1030091020080d2080780d2010000d4f40300aa"
            "e00314aae1230191020082d2e80780d2010000d40e000094bf0200f12cffff54e00314aa280780d2010000d4d2ffff17"
            "000080d2010080d2020080d2030080d2280980d2010000d4faffff17f50300aae02300f91f0000f102c09f9a42200091"
            "e1030191200080d2080880d2010000d4c0035fd6"
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
