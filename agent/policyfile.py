"""Reads `agent.yaml` as job and queue files are read: every problem at once, each with file, key and what is allowed.

`python -m agent.policyfile` writes its JSON Schema beside those of jobs and queues; `--check` only compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.core.rules import AgentPolicy
from launch.schemas import write
from launch.specfile import load

SCHEMA = "agent.schema.json"


def load_policy(path: Path) -> AgentPolicy:
    """The policy in the YAML file at `path`; an empty file is the default. Raises `SpecError`."""
    return load(AgentPolicy, path)


def main(arguments: list[str]) -> int:
    """Write the schema, or with `--check` compare it; returns the exit code."""
    return write({SCHEMA: AgentPolicy}, arguments, again="python -m agent.policyfile")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
