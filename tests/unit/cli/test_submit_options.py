"""Options over a file: what is given wins, the rest stays, errors name the place."""

from pathlib import Path

import pytest

from launch.cli.submit import merged
from launch.errors import SpecError
from launch.job import JobSpec
from launch.specfile import load_job

NOTHING = {
    "image": None,
    "command": None,
    "env": {},
    "resources": {"cpu": None, "gpu": None, "memory": None},
    "timeout": None,
    "retries": None,
}


@pytest.fixture
def base(tmp_path: Path) -> JobSpec:
    file = tmp_path / "job.yaml"
    file.write_text(
        "image: a:1\ncommand: [python, --lr, 0.0010]\nenv: {A: 1, B: 2}\n"
        "resources: {cpu: 2, memory: 1Gi}\ntimeout: 90s\nretries: 2\n"
    )
    return load_job(file)


def test_no_options_leave_the_file_as_it_is(base: JobSpec) -> None:
    assert merged(base, NOTHING) == base
    assert merged(base, NOTHING).model_fields_set == base.model_fields_set


def test_options_win_key_by_key(base: JobSpec) -> None:
    spec = merged(
        base,
        {
            **NOTHING,
            "image": "b:2",
            "env": {"B": "3", "C": ""},
            "resources": {"cpu": "0.5", "gpu": None, "memory": None},
        },
    )
    assert spec.image == "b:2"
    assert spec.command == ("python", "--lr", "0.0010")
    assert spec.env == {"A": "1", "B": "3", "C": ""}
    assert (spec.resources.cpu, spec.resources.memory) == (0.5, 2**30)
    assert (spec.timeout, spec.retries) == (90.0, 2)


def test_a_command_replaces_the_file_s_and_stays_text(base: JobSpec) -> None:
    assert merged(base, {**NOTHING, "command": ["echo", "0.10", "1e3"]}).command == ("echo", "0.10", "1e3")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resources": {"memory": "8Gx"}}, "resources.memory: found '8Gx'"),
        ({"resources": {"gpu": "-1"}}, "resources.gpu"),
        ({"timeout": "soon"}, "timeout: found 'soon'"),
        ({"retries": "many"}, "retries"),
        ({"image": ""}, "image"),
    ],
)
def test_a_bad_option_is_named(base: JobSpec, given: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as error:
        merged(base, {**NOTHING, **given})
    assert said in str(error.value)
    assert "the command line" in str(error.value)


def test_without_a_file_an_image_is_needed() -> None:
    with pytest.raises(SpecError, match="image: found nothing"):
        merged(None, NOTHING)
