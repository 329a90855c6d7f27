"""What is wrong with a spec, in words: the key, what was found, what is allowed, and the known key that was meant.

Pure: from what pydantic says, and from a tree that it has not seen yet.
"""

from __future__ import annotations

import difflib
import itertools
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from launch.core.shown import one_line
from launch.errors import Problem
from launch.fields import Spec
from launch.job import Resources
from launch.queue import AwsProvider, LocalProvider

MAX_PROBLEMS = 20
"""So many are described, the rest is counted: a body can hold thousands."""

_ALLOWED = {
    "int": "allowed: a whole number",
    "float": "allowed: a number",
    "bool": "allowed: true or false",
    "tuple": "allowed: a list",
    "dict": "allowed: keys with values",
    "model": "allowed: keys with values",
}


def problems_of(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """Every problem that pydantic found, in words; beyond `MAX_PROBLEMS` a count."""
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
    found = found_text(detail["input"])
    owner = _owner(model, loc)
    where = ".".join(
        str(part) or "''" for part in loc if part not in ("aws", "local", "static") or loc[0] != "provider"
    )
    if kind == "extra_forbidden":
        key = str(loc[-1])
        near = _nearest(key, list(owner.model_fields))
        return Problem(where, "found an unknown key", f"allowed: {keys_of(owner)}", near)
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
        return Problem(f"{where}.type", found_text(value), "allowed: aws, local or static", near)
    if kind == "union_tag_not_found":
        return Problem(f"{where}.type", "found nothing", "allowed: aws, local or static")
    bounds = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most")}
    if kind in bounds:
        name, words = bounds[kind]
        return Problem(where, found, f"allowed: {words} {detail['ctx'][name]}")
    base = kind.split("_", maxsplit=1)[0]
    if base == "model" and len(loc) > 1:  # one of a list
        return Problem(where, found, f"allowed: the keys {keys_of(_owner(model, (*loc, '')))}")
    return Problem(where, found, _ALLOWED.get(base, f"allowed: {detail['msg'].removeprefix('Input should be ')}"))


def kind_of(tree: object) -> str:
    """What stands where a mapping should; both readers make strings of numbers."""
    if tree is None:
        return "nothing"
    if isinstance(tree, bool):
        return "true or false"
    return "a list" if isinstance(tree, (list, tuple)) else "a string"


def _nearest(text: str, known: list[str]) -> str | None:
    """The one of `known` (all lower case) that `text` resembles most, whatever its case; None if none does."""
    return next(iter(difflib.get_close_matches(text.lower(), known, n=1, cutoff=0.6)), None)


def found_text(value: object) -> str:
    """A value as it was found, cut short."""
    if value is None:
        return "found nothing"
    if isinstance(value, dict):
        return "found keys with values"
    if isinstance(value, (list, tuple)):
        return "found a list"
    text = one_line(str(value)[:200])
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


def keys_of(model: type[BaseModel]) -> str:
    """The keys that may stand there."""
    return ", ".join(model.model_fields)


def _meaning(owner: type[BaseModel], loc: tuple[Any, ...]) -> str:
    from launch.meanings import meanings

    text = meanings(owner).get(str(loc[-1]), "") if issubclass(owner, Spec) else ""
    return text.rstrip(".") or "it is required"


def lost_indentation(model: type[BaseModel], tree: dict[Any, Any]) -> Problem | None:
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
