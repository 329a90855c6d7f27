"""Traces of jobs: when each came, how long it ran, what it asked for. Read from CSV.

Two forms, told apart by the header: the one of the Alibaba "openb" pod lists, and a simple one of our own. Invariant:
jobs come ordered by their arrival, which starts at 0, and every error names the file and the line.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.core.capacity import Amount
from launch.core.quantity import parse_cpu, parse_memory
from launch.errors import LaunchError
from launch.subjects import Priority, is_name

SIMPLE = ("submitted_s", "duration_s", "cpu", "memory", "gpu")
OPENB = ("cpu_milli", "memory_mib", "num_gpu", "creation_time", "deletion_time", "scheduled_time")
LONGEST_S = 86_400.0
"""What runs longer is taken for a service, not for a job, unless told otherwise."""
MIB = 1024**2


class TraceError(LaunchError):
    """A trace that can't be read, and where."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a trace. `id` is its place in the order of arrival."""

    id: int
    submitted_s: float
    duration_s: float
    need: Amount
    job_type: str = "job"
    rank: int = 2
    """0 for the most urgent."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs in the order of their arrival, and what was left out on the way, by reason."""

    name: str
    jobs: tuple[Job, ...]
    left_out: Mapping[str, int]


def read(path: Path) -> Trace:
    """Read a CSV file in either form. Raises `TraceError`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            parse = _form(path, rows.fieldnames or ())
            jobs, left_out = _rows(path, rows, parse)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: it is not UTF-8 text", hint="a trace is a CSV file") from error
    except csv.Error as error:
        raise TraceError(f"{path}: it is not CSV: {error}") from error
    if not jobs:
        raise TraceError(f"{path}: it holds no job that ran")
    return Trace(path.stem, in_order(jobs), left_out)


def in_order(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """Ordered by arrival, numbered from 1, the first one coming at 0."""
    ordered = sorted(jobs, key=lambda job: job.submitted_s)
    start = ordered[0].submitted_s if ordered else 0.0
    return tuple(
        Job(number, job.submitted_s - start, job.duration_s, job.need, job.job_type, job.rank)
        for number, job in enumerate(ordered, 1)
    )


def fitting(trace: Trace, capacity: Amount, longest_s: float = LONGEST_S, first: int | None = None) -> Trace:
    """The jobs that one machine can hold and that last at most `longest_s`; the `first` so many of them."""
    left_out = dict(trace.left_out)
    kept = []
    for job in trace.jobs:
        if job.duration_s > longest_s:
            why = f"longer than {longest_s:g} s"
        elif not job.need.fits_in(capacity):
            why = "too large for the machine"
        else:
            kept.append(job)
            continue
        left_out[why] = left_out.get(why, 0) + 1
    if first is not None and len(kept) > first:
        left_out["beyond the first"] = len(kept) - first
        kept = kept[:first]
    if not kept:
        told = ", ".join(f"{count} {why}" for why, count in left_out.items())
        raise TraceError(f"{trace.name}: no job is left to replay ({told})")
    return Trace(trace.name, in_order(kept), left_out)


Parse = Callable[[Mapping[str, str]], "Job | str"]
"""A row's job, or why it is left out. Raises `ValueError` with what was found and what is allowed."""


def _form(path: Path, columns: Sequence[str]) -> Parse:
    if set(OPENB) <= set(columns):
        return _openb
    missing = [name for name in SIMPLE if name not in columns]
    if not missing:
        return _simple
    raise TraceError(
        f"{path}, line 1: found the columns {', '.join(columns)[:200] or 'none'}; missing: {', '.join(missing)}",
        hint=f"allowed: {', '.join(SIMPLE)}[, job_type, priority], or the openb form with {', '.join(OPENB)}",
    )


def _rows(path: Path, rows: csv.DictReader[str], parse: Parse) -> tuple[list[Job], dict[str, int]]:
    jobs: list[Job] = []
    left_out: dict[str, int] = {}
    for row in rows:
        try:
            found = parse(_whole_row(row))
        except ValueError as error:
            raise TraceError(f"{path}, line {rows.line_num}: {error}") from None
        if isinstance(found, str):
            left_out[found] = left_out.get(found, 0) + 1
        else:
            jobs.append(found)
    return jobs, left_out


def _whole_row(row: Mapping[str, str]) -> Mapping[str, str]:
    """`row`, if it has as many fields as the header; the csv module files what is missing or too much under None."""
    if None in row or None in row.values():
        raise ValueError("found another number of fields than in the header; allowed: one for each column")
    return row


def _simple(row: Mapping[str, str]) -> Job:
    job_type = row.get("job_type") or "job"
    if not is_name(job_type):
        raise ValueError(f"job_type: found {job_type[:60]!r}; allowed: 1 to 63 of a-z, 0-9, '_' and '-'")
    word = row.get("priority") or Priority.MEDIUM.value
    if word not in tuple(Priority):
        raise ValueError(f"priority: found {word[:60]!r}; allowed: {', '.join(Priority)}")
    cpu, memory = row["cpu"].strip(), row["memory"].strip()
    need = Amount(
        cpu_milli=_parsed("cpu", parse_cpu, cpu) if cpu not in ("", "0") else 0,
        memory_bytes=_parsed("memory", parse_memory, memory) if memory not in ("", "0") else 0,
        gpus=_whole(row, "gpu"),
        slots=1,
    )
    return Job(0, _number(row, "submitted_s"), _number(row, "duration_s"), need, job_type, Priority(word).rank)


def _openb(row: Mapping[str, str]) -> Job | str:
    if not row["scheduled_time"]:
        return "never scheduled"
    started, ended = _number(row, "scheduled_time"), _number(row, "deletion_time")
    if ended <= started:
        return "without a duration"
    gpus = _whole(row, "num_gpu")
    need = Amount(cpu_milli=_whole(row, "cpu_milli"), memory_bytes=_whole(row, "memory_mib") * MIB, gpus=gpus, slots=1)
    # The trace names no types; users name theirs by what a job is, of which the GPUs that it takes tell a little.
    return Job(0, _number(row, "creation_time"), ended - started, need, f"gpu{gpus}")


def _number(row: Mapping[str, str], column: str) -> float:
    text = row[column].strip()
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e12:
        raise ValueError(f"{column}: found {text[:60]!r}; allowed: seconds, at least 0")
    return value


def _whole(row: Mapping[str, str], column: str) -> int:
    text = row[column].strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f"{column}: found {text[:60]!r}; allowed: a whole number, at least 0")
    return int(text)


def _parsed(column: str, parse: Callable[[object], int], text: str) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None
