"""The committed schemas are current, and say what the models say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from launch import schemas
from launch.job import JobSpec
from launch.queue import QueueSpec


def test_the_committed_schemas_are_current() -> None:
    assert schemas.main(["--check"]) == 0


def test_a_stale_schema_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schemas, "FOLDER", tmp_path / "schemas")
    assert schemas.main(["--check"]) == 1
    assert "job.schema.json, queue.schema.json, agent.schema.json" in capsys.readouterr().err
    assert schemas.main([]) == 0
    assert schemas.main(["--check"]) == 0
    (tmp_path / "schemas" / "job.schema.json").write_text("{}")
    assert schemas.main(["--check"]) == 1
    assert "queue.schema.json" not in capsys.readouterr().err


@pytest.mark.parametrize("name", schemas.MODELS)
def test_every_key_is_described(name: str) -> None:
    schema = json.loads((schemas.FOLDER / name).read_text())
    for model in (schema, *schema.get("$defs", {}).values()):
        assert model["additionalProperties"] is False
        for key, value in model["properties"].items():
            assert value.get("description") or key == "type", key


def test_the_schemas_take_what_users_write() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="comes with the development requirements")
    from tests.unit.launch.test_specfile import JOB_YAML, QUEUE_YAML

    for model, text in ((JobSpec, JOB_YAML), (QueueSpec, QUEUE_YAML)):
        schema = json.loads(schemas.schema_text(model))
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(yaml.safe_load(text), schema)
