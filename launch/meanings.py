"""What a spec's fields mean: the text under each in its class, read from the source when an error or a schema needs it.

Pydantic would read it as the class is made: every command then parses these files twice before it does anything.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap

from launch.fields import Spec


def meanings(model: type[Spec]) -> dict[str, str]:
    """The text under each field that has one, by field; empty where the source is not at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):
        return {}
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(getattr(ast.parse(source).body[0], "body", ())):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = inspect.cleandoc(text.value)
    return found
