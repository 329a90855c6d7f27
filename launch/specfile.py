"""Reads specs: YAML files as people write them, JSON bodies as clients send them.

Numbers keep the text that was written (a command's `0.001` must not become `1e-3`), so both readers hand every scalar
on as a string and leave its meaning to the field. Every refusal is a `SpecError` that names the source, the key, what
was found, what is allowed, and the known key that an unknown one resembles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from launch.errors import Problem, SpecError
from launch.fields import Spec
from launch.job import JobSpec
from launch.policy import AgentPolicy
from launch.queue import QueueSpec
from launch.spec_problems import found_text, keys_of, kind_of, lost_indentation, problems_of
from launch.subjects import MAX_SPEC_BYTES

S = TypeVar("S", bound=Spec)


def load_job(path: Path) -> JobSpec:
    """The job spec in the YAML file at `path`."""
    return parse_job_yaml(_read(path), source=str(path))


def load_job_and_code(path: Path) -> tuple[JobSpec, Path | None]:
    """The job spec in the YAML file at `path`, and the folder that it names as `code: DIR`, relative to the file."""
    tree = _load_yaml(_read(path), str(path))
    folder = None
    if isinstance(tree, dict) and isinstance(tree.get("code"), str):
        text = tree.pop("code")
        if not text or "\0" in text:
            raise SpecError(str(path), [Problem("code", found_text(text), "allowed: a folder, relative to this file")])
        folder = path.parent / Path(text).expanduser()
    return build(JobSpec, tree, source=str(path)), folder


def load_queue(path: Path) -> QueueSpec:
    """The queue spec in the YAML file at `path`, with the agents' policy if it names a file of one (relative to it)."""
    tree = _load_yaml(_read(path), str(path))
    provider = tree.get("provider") if isinstance(tree, dict) else None
    if isinstance(provider, dict) and isinstance(text := provider.get("agent_policy"), str):
        if not text or "\0" in text:
            problem = Problem("provider.agent_policy", found_text(text), "allowed: a file, relative to this one")
            raise SpecError(str(path), [problem])
        provider["agent_policy"] = json.loads(load_policy(path.parent / Path(text).expanduser()).text())
    return build(QueueSpec, tree, source=str(path))


def load_policy(path: Path) -> AgentPolicy:
    """The agent's policy in the YAML file at `path`."""
    return build(AgentPolicy, _load_yaml(_read(path), str(path)), source=str(path))


def parse_job_yaml(text: str, *, source: str) -> JobSpec:
    """A job spec from YAML text."""
    return build(JobSpec, _load_yaml(text, source), source=source)


def parse_queue_yaml(text: str, *, source: str) -> QueueSpec:
    """A queue spec from YAML text."""
    return build(QueueSpec, _load_yaml(text, source), source=source)


def parse_job_json(body: bytes, *, source: str) -> JobSpec:
    """A job spec from the body of a message, however it was made."""
    return build(JobSpec, parse_json(body, source=source), source=source)


def parse_json(body: bytes, *, source: str) -> object:
    """What a job's JSON holds, before it is taken for a spec. Raises `SpecError`."""
    if len(body) > MAX_SPEC_BYTES:
        problem = Problem("", f"found a body of {len(body)} bytes", f"allowed: at most {MAX_SPEC_BYTES}")
        raise SpecError(source, [problem])
    if not body.strip():
        raise SpecError(source, [Problem("", "found an empty body", "allowed: a JobSpec as a JSON object")])
    try:
        return json.loads(body, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_unique_pairs)
    except _DuplicateKey as error:
        raise SpecError(source, [Problem(str(error), "found it twice", "allowed: each key once")]) from None
    except (ValueError, RecursionError) as error:
        found = f"found a body that is not JSON ({error})"
        raise SpecError(source, [Problem("", found, "allowed: a JobSpec as a JSON object")]) from None


def build(model: type[S], tree: object, *, source: str) -> S:
    """`tree` as a `model`; raises `SpecError` with every problem at once."""
    if not isinstance(tree, dict):
        raise SpecError(source, [Problem("", f"found {kind_of(tree)}", f"allowed: the keys {keys_of(model)}")])
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Such text fits in no record, so it must not get into one, not even as what a refusal quotes.
        problem = Problem("", "found half of a surrogate pair", "allowed: text that can be written in UTF-8")
        raise SpecError(source, [problem]) from None
    except RecursionError:
        raise SpecError(source, [Problem("", "found values nested too deeply", "allowed: a plain spec")]) from None
    except TypeError:  # by a tag, such as !!binary
        problem = Problem("", "found a tag that makes something else of a value", "allowed: text, lists and keys")
        raise SpecError(source, [problem]) from None
    lost = lost_indentation(model, tree)
    if lost:
        raise SpecError(source, [lost])
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise SpecError(source, problems_of(model, error)) from None


# -- reading --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
        if len(data) > MAX_SPEC_BYTES:
            problem = Problem("", "found a larger file", f"allowed: at most {MAX_SPEC_BYTES} bytes")
            raise SpecError(str(path), [problem])
        return data.decode()
    except OSError as error:
        raise SpecError(str(path), [Problem("", f"can't be read: {error.strerror}", "allowed: a YAML file")]) from None
    except UnicodeDecodeError:
        raise SpecError(str(path), [Problem("", "found bytes that are not UTF-8", "allowed: text in UTF-8")]) from None


class _DuplicateKey(ValueError):
    pass


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise _DuplicateKey(key)
        tree[key] = value
    return tree


def _load_yaml(text: str, source: str) -> object:
    from launch.yamltext import load_yaml  # PyYAML is 10 ms of a command's start, and few commands read a file

    return load_yaml(text, source)
