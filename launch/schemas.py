"""JSON Schemas of the files that people write, for editors and for other programs.

`python -m launch.schemas` writes them to `docs/schemas/`; with `--check` it only says whether they are current.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from launch.fields import Spec
from launch.job import JobSpec
from launch.meanings import meanings
from launch.policy import AgentPolicy
from launch.queue import QueueSpec

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"
MODELS: dict[str, type[Spec]] = {
    "job.schema.json": JobSpec,
    "queue.schema.json": QueueSpec,
    "agent.schema.json": AgentPolicy,
}


def schema_text(model: type[Spec]) -> str:
    """The schema of one model as it stands in its file."""
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    models = {known.__name__: known for known in Spec.__subclasses__()}
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for field, text in meanings(models[name]).items() if name in models else ():
            told = {**part["properties"][field], "description": text}
            part["properties"][field] = dict(sorted(told.items()))
    return json.dumps(schema, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; returns the exit code."""
    stale = []
    for name, model in MODELS.items():
        path = FOLDER / name
        text = schema_text(model)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        sys.stderr.write(f"not current: {', '.join(stale)}; run: python -m launch.schemas\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
