"""Amounts as people write them: memory, durations, CPUs.

Invariant: `parse_x(format_x(v)) == v` for every value that `format_x` accepts, and a parser that refuses says what it
found and what it allows. Memory suffixes are Kubernetes': `Ki Mi Gi Ti` are powers of 1024, `K M G T` powers of 1000.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_UP, Decimal, InvalidOperation

MEMORY_PATTERN = r"^[0-9]+(\.[0-9]+)?\s*(Ki|Mi|Gi|Ti|[kKMGT])?B?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$|^[0-9]+(\.[0-9]+)?$"

MEMORY_ALLOWED = "allowed: bytes or a number with Ki, Mi, Gi, Ti, K, M, G or T, such as 8Gi, 512M or 1.5G"
DURATION_ALLOWED = "allowed: seconds or numbers with ms, s, m, h or d, such as 90s, 2h or 1h30m"
CPU_ALLOWED = "allowed: a number of CPUs of at least 0.001, such as 2 or 0.5"

_MEMORY_UNITS = {
    "": 1,
    "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4,
    "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4,
}  # fmt: skip
_DURATION_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_MEMORY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*(Ki|Mi|Gi|Ti|[kKMGT]?)B?", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)", re.ASCII)
_PLAIN = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)

MAX_MEMORY_BYTES = 2**60
MAX_DURATION_S = 10 * 365 * 86400.0
MAX_CPU_MILLI = 10_000_000


def parse_memory(value: object) -> int:
    """Bytes from `8Gi`, `512M`, `1.5G` or a whole number of bytes. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"found {_shown(value)}; {MEMORY_ALLOWED}")
    match = _MEMORY.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"found {_shown(value)}; {MEMORY_ALLOWED}")
    amount = int(Decimal(match[1]) * _MEMORY_UNITS[match[2]])
    if not 0 < amount <= MAX_MEMORY_BYTES:
        raise ValueError(f"found {_shown(value)}; allowed: from 1 byte to {format_memory(MAX_MEMORY_BYTES)}")
    return amount


def format_memory(amount_bytes: int) -> str:
    """The shortest exact spelling: `8Gi`, `512Mi`, or plain bytes where no binary unit divides it."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        size = _MEMORY_UNITS[unit]
        if amount_bytes and amount_bytes % size == 0:
            return f"{amount_bytes // size}{unit}"
    return str(amount_bytes)


def show_memory(amount_bytes: int) -> str:
    """For people: rounded to one decimal in a fitting binary unit (`7.6Gi`)."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        size = _MEMORY_UNITS[unit]
        if amount_bytes >= size:
            return f"{amount_bytes / size:.1f}".removesuffix(".0") + unit
    return f"{amount_bytes}B"


def parse_duration(value: object) -> float:
    """Seconds, to the millisecond, from `90s`, `2h`, `1d`, `1h30m`, `500ms` or a plain number. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"found {_shown(value)}; {DURATION_ALLOWED}")
    text = str(value).strip()
    try:
        if _PLAIN.fullmatch(text):
            total = Decimal(text)
        else:
            parts = list(_DURATION_PART.finditer(text))
            if not parts or "".join(part[0] for part in parts) != text:
                raise ValueError(f"found {_shown(value)}; {DURATION_ALLOWED}")
            total = sum((Decimal(part[1]) * _DURATION_UNITS[part[2]] for part in parts), Decimal(0))
        # Whole milliseconds, up: finer ones would be written as 1e-05 in JSON, which nobody reads back.
        total = total.quantize(_DURATION_UNITS["ms"], rounding=ROUND_UP)
    except InvalidOperation as error:
        raise ValueError(f"found {_shown(value)}; {DURATION_ALLOWED}") from error
    seconds = float(total)
    if not math.isfinite(seconds) or seconds > MAX_DURATION_S:
        raise ValueError(f"found {_shown(value)}; allowed: at most 3650d")
    return seconds


def format_duration(seconds: float) -> str:
    """The spelling in whole units, to the millisecond: `1h30m`, `90s` as `1m30s`, `1.5s` as `1s500ms`."""
    millis = round(seconds * 1000)
    if millis == 0:
        return "0s"
    text = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, millis = divmod(millis, size)
        if count:
            text += f"{count}{unit}"
    return text


def show_duration(seconds: float) -> str:
    """For people: two leading units at most (`1h05m`, `41s`, `0.4s`)."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def parse_cpu(value: object) -> int:
    """Thousandths of a CPU from `2`, `0.5` or `"1.5"`. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"found {_shown(value)}; {CPU_ALLOWED}")
    text = str(value).strip()
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"found {_shown(value)}; {CPU_ALLOWED}")
    milli = int(Decimal(text) * 1000)
    if not 1 <= milli <= MAX_CPU_MILLI:
        raise ValueError(f"found {_shown(value)}; {CPU_ALLOWED}, at most {MAX_CPU_MILLI // 1000}")
    return milli


def show_cpu(milli: int) -> str:
    """For people: `2`, `0.5`."""
    return f"{milli / 1000:g}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
