"""Reads YAML as people write specs: scalars stay text, a key stands once, and aliases can't make more than they say."""

from __future__ import annotations

from typing import Any

import yaml

from launch.errors import Problem, SpecError

MAX_NODES = 20_000
"""A document that expands (by aliases) to more values than this is refused before it is built."""


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


def load_yaml(text: str, source: str) -> object:
    """The document, with every scalar but null as the text that was written. Raises `SpecError`."""
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
