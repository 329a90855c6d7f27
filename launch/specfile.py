"""Reads specs: YAML files as people write them, JSON bodies as clients send them.

Numbers keep the text that was written (a command's `0.001` must not become `1e-3`), so both readers hand every scalar
on as a string and leave its meaning to the field. Every refusal is a `SpecError` that names the source, the key, what
was found, what is allowed, and the known key that an unknown one resembles.
"""

from __future__ import annotations

import difflib
import itertools
import json
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from launch.errors import Problem, SpecError
from launch.fields import Spec
from launch.job import JobSpec, Resources
from launch.queue import AwsProvider, LocalProvider, QueueSpec
from launch.subjects import MAX_SPEC_BYTES

S = TypeVar("S", bound=Spec)

MAX_PROBLEMS = 20
"""So many are described, the rest is counted: a body can hold thousands."""

MAX_NODES = 20_000
"""A document that expands (by aliases) to more values than this is refused before it is built."""


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
            raise SpecError(str(path), [Problem("code", _found(text), "allowed: a folder, relative to this file")])
        folder = path.parent / Path(text).expanduser()
    return build(JobSpec, tree, source=str(path)), folder


def load_queue(path: Path) -> QueueSpec:
    """The queue spec in the YAML file at `path`."""
    return parse_queue_yaml(_read(path), source=str(path))


def parse_job_yaml(text: str, *, source: str) -> JobSpec:
    """A job spec from YAML text."""
    return build(JobSpec, _load_yaml(text, source), source=source)


def parse_queue_yaml(text: str, *, source: str) -> QueueSpec:
    """A queue spec from YAML text."""
    return build(QueueSpec, _load_yaml(text, source), source=source)


def parse_job_json(body: bytes, *, source: str) -> JobSpec:
    """A job spec from the body of a message, however it was made."""
    if len(body) > MAX_SPEC_BYTES:
        problem = Problem("", f"found a body of {len(body)} bytes", f"allowed: at most {MAX_SPEC_BYTES}")
        raise SpecError(source, [problem])
    if not body.strip():
        raise SpecError(source, [Problem("", "found an empty body", "allowed: a JobSpec as a JSON object")])
    try:
        tree = json.loads(body, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_unique_pairs)
    except _DuplicateKey as error:
        raise SpecError(source, [Problem(str(error), "found it twice", "allowed: each key once")]) from None
    except (ValueError, RecursionError) as error:
        found = f"found a body that is not JSON ({error})"
        raise SpecError(source, [Problem("", found, "allowed: a JobSpec as a JSON object")]) from None
    return build(JobSpec, tree, source=source)


def build(model: type[S], tree: object, *, source: str) -> S:
    """`tree` as a `model`; raises `SpecError` with every problem at once."""
    if not isinstance(tree, dict):
        raise SpecError(source, [Problem("", f"found {_kind(tree)}", f"allowed: the keys {_keys(model)}")])
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Such text fits in no record, so it must not get into one, not even as what a refusal quotes.
        problem = Problem("", "found half of a surrogate pair", "allowed: text that can be written in UTF-8")
        raise SpecError(source, [problem]) from None
    except RecursionError:
        raise SpecError(source, [Problem("", "found values nested too deeply", "allowed: a plain spec")]) from None
    lost = _lost_indentation(model, tree)
    if lost:
        raise SpecError(source, [lost])
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise SpecError(source, _problems(model, error)) from None


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


class _KeyTwice(yaml.constructor.ConstructorError):
    pass


class _TextLoader(yaml.SafeLoader):
    """Keeps every scalar as the text that was written; only a null value stays null. Refuses duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML reads this class attribute; it is never changed)
        first: [(tag, regexp) for tag, regexp in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"  # a key is text as well, even `null`
                if key.value in seen:
                    raise _KeyTwice(None, None, f"found the key '{key.value}' twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _load_yaml(text: str, source: str) -> object:
    try:
        loader = _TextLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _expanded_size(node, MAX_NODES) > MAX_NODES:
                problem = Problem("", "found aliases that expand without end", f"allowed: at most {MAX_NODES} values")
                raise SpecError(source, [problem])
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        found = getattr(error, "problem", None) or str(error)
        allowed = "each key once" if isinstance(error, _KeyTwice) else "valid YAML, indented by spaces"
        raise SpecError(source, [Problem(where, str(found), f"allowed: {allowed}")]) from None
    except (RecursionError, ValueError) as error:
        raise SpecError(source, [Problem("", f"can't be read: {error}", "allowed: plain YAML")]) from None


def _expanded_size(root: yaml.Node, limit: int) -> int:
    """How many values the document has once its aliases are written out; stops counting past `limit`."""
    count = 0
    stack: list[yaml.Node] = [root]
    while stack and count <= limit:
        node = stack.pop()
        count += 1
        if isinstance(node, yaml.MappingNode):
            stack.extend(child for pair in node.value for child in pair)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
    return count


# -- explaining -----------------------------------------------------------------------------------------------------

_ALLOWED = {
    "int": "allowed: a whole number",
    "float": "allowed: a number",
    "bool": "allowed: true or false",
    "tuple": "allowed: a list",
    "dict": "allowed: keys with values",
    "model": "allowed: keys with values",
}


def _problems(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    details = error.errors(include_url=False)
    problems = [_problem(model, detail) for detail in details[:MAX_PROBLEMS]]
    if len(details) > MAX_PROBLEMS:
        more = len(details) - MAX_PROBLEMS
        problems.append(Problem("", f"found {more} more like these", "allowed: a spec with none"))
    return problems


def _problem(model: type[BaseModel], detail: Any) -> Problem:
    loc: tuple[Any, ...] = detail["loc"]
    kind: str = detail["type"]
    if kind != "extra_forbidden" and len(loc) > 1 and loc[-1] == "[key]":
        loc = loc[:-1]  # pydantic's mark that the name of a key is meant, not its value
    found = _found(detail["input"])
    owner = _owner(model, loc)
    where = ".".join(
        str(part) or "''" for part in loc if part not in ("aws", "local", "static") or loc[0] != "provider"
    )
    if kind == "extra_forbidden":
        key = str(loc[-1])
        near = _nearest(key, list(owner.model_fields))
        return Problem(where, "found an unknown key", f"allowed: {_keys(owner)}", near)
    if kind == "invalid_key":
        return Problem(
            ".".join(map(str, loc[:-1])), f"found the key {str(loc[-1])[:80]!r}", "allowed: keys that are text"
        )
    if kind == "missing":
        return Problem(where, "found nothing", f"allowed: a value ({_meaning(owner, loc)})")
    if kind == "value_error":
        text = str(detail["ctx"]["error"])
        head, _, tail = text.partition("; ")
        return Problem(where, head, tail)
    if kind == "union_tag_invalid":
        value = str(detail["ctx"]["tag"])
        near = _nearest(value, ["aws", "local", "static"])
        return Problem(f"{where}.type", _found(value), "allowed: aws, local or static", near)
    if kind == "union_tag_not_found":
        return Problem(f"{where}.type", "found nothing", "allowed: aws, local or static")
    bounds = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
    if kind in bounds:
        name, words = bounds[kind]
        return Problem(where, found, f"allowed: {words} {detail['ctx'][name]}")
    base = kind.split("_", maxsplit=1)[0]
    if base == "model" and len(loc) > 1:  # one of a list
        return Problem(where, found, f"allowed: the keys {_keys(_owner(model, (*loc, '')))}")
    return Problem(where, found, _ALLOWED.get(base, f"allowed: {detail['msg'].removeprefix('Input should be ')}"))


def _kind(tree: object) -> str:
    """What stands where a mapping should; both readers make strings of numbers."""
    if tree is None:
        return "nothing"
    if isinstance(tree, bool):
        return "true or false"
    return "a list" if isinstance(tree, (list, tuple)) else "a string"


def _nearest(text: str, known: list[str]) -> str | None:
    """The one of `known` (all lower case) that `text` resembles most, whatever its case; None if none does."""
    return next(iter(difflib.get_close_matches(text.lower(), known, n=1, cutoff=0.6)), None)


def _found(value: object) -> str:
    if value is None:
        return "found nothing"
    if isinstance(value, dict):
        return "found keys with values"
    if isinstance(value, (list, tuple)):
        return "found a list"
    text = str(value)
    return f"found '{text if len(text) <= 60 else text[:57] + '...'}'"


def _owner(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    """The model that the last part of `loc` is (or would be) a key of."""
    current = model
    for part in loc[:-1]:
        field = current.model_fields.get(str(part))
        candidates = _models(field.annotation) if field is not None else []
        if len(candidates) == 1:
            current = candidates[0]
        elif candidates:
            tags = {str(c.model_fields["type"].default): c for c in candidates if "type" in c.model_fields}
            current = tags.get(str(loc[loc.index(part) + 1]), current)
    return current


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _models(arg)]


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _meaning(owner: type[BaseModel], loc: tuple[Any, ...]) -> str:
    field = owner.model_fields.get(str(loc[-1]))
    text = (field.description or "") if field else ""
    return text.rstrip(".") or "it is required"


def _lost_indentation(model: type[BaseModel], tree: dict[Any, Any]) -> Problem | None:
    """An empty section followed by its contents at top level: say that, not "unknown key" a dozen times."""
    strays = [str(key) for key in tree if key not in model.model_fields]
    if not strays:
        return None
    empty = [str(key) for key, value in tree.items() if value is None]
    inside: dict[str, set[str]] = {"resources": set(Resources.model_fields)}
    for section in empty:
        if section == "env":
            names = [str(key) for key in tree]
            below = itertools.takewhile(lambda key: key in strays, names[names.index(section) + 1 :])
            fallen = sorted({*below, *(key for key in strays if key.isupper())}, key=names.index)
        elif section in inside:
            fallen = [key for key in strays if key in inside[section]]
        elif section == "provider":
            known = {*AwsProvider.model_fields, *LocalProvider.model_fields}
            fallen = [key for key in strays if key in known]
        else:
            fallen = []
        if fallen:
            return Problem(
                section,
                f"found nothing below it, and {', '.join(fallen)} at top level: the indentation was lost",
                f"allowed: {section}: with {fallen[0]} and the like indented by two spaces below it",
            )
    return None
