"""The job spec's fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from launch.core.capacity import Amount
from launch.job import JobSpec, Resources

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
visible = texts.filter(str.isprintable)
finite = st.floats(allow_nan=False, allow_infinity=False)
specs: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"image": st.just("python:3.12")},
    optional={
        "job_type": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True),
        "name": texts,
        "entrypoint": st.lists(texts, max_size=3),
        "command": st.lists(st.one_of(texts, st.integers(), finite, st.booleans()), max_size=5),
        "env": st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True), texts, max_size=3),
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "cpu": st.integers(1, 10**6).map(lambda milli: milli / 1000),
                "gpu": st.integers(0, 64),
                "memory": st.one_of(st.integers(1, 2**50), st.sampled_from(["8Gi", "1.5G", "512M"])),
            },
        ),
        "timeout": st.one_of(st.none(), st.sampled_from(["90s", "2h", 0.25, 10])),
        "retries": st.integers(0, 1000),
        "stop_grace": st.integers(0, 10**6).map(lambda millis: f"{millis}ms"),
        "labels": st.dictionaries(st.from_regex(r"[a-z][a-z./]{0,10}", fullmatch=True), visible, max_size=2),
    },
)


@given(specs)
def test_a_spec_survives_the_wire(given_spec: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(given_spec)
    for body in (spec.model_dump_json(), spec.model_dump_json(exclude_unset=True)):
        assert JobSpec.model_validate_json(body) == spec


@given(specs)
def test_what_was_left_open_stays_open_over_the_wire(given_spec: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(given_spec)
    again = JobSpec.model_validate_json(spec.model_dump_json(exclude_unset=True))
    assert set(json.loads(again.model_dump_json(exclude_unset=True))) == set(given_spec)
    assert again.resources.model_fields_set == spec.resources.model_fields_set


def test_resources_are_a_vector_with_one_slot() -> None:
    asked = Resources.model_validate({"cpu": "0.5", "gpu": 2, "memory": "1Gi"})
    assert asked.amount() == Amount(cpu_milli=500, memory_bytes=2**30, gpus=2, slots=1)
    assert Resources().amount() == Amount(slots=1)


@given(st.integers(1, 10_000_000))
def test_cpus_are_held_to_the_thousandth(milli: int) -> None:
    assert Resources.model_validate({"cpu": milli / 1000}).amount().cpu_milli == milli


@pytest.mark.parametrize(
    "change",
    [
        {"image": ""},
        {"image": "-rm"},
        {"image": "a b"},
        {"image": "a/../../containers"},
        {"image": "a/./b"},
        {"image": None},
        {"command": "python train.py"},
        {"command": ["a\0b"]},
        {"env": {"A": "\ud800"}},
        {"command": [None]},
        {"command": [["a"]]},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": None}},
        {"env": None},
        {"resources": {"gpu": 1.5}},
        {"resources": {"gpu": -1}},
        {"resources": {"memory": 0}},
        {"retries": -1},
        {"timeout": "-1s"},
        {"job_type": "Train"},
        {"job_type": "a.b"},
        {"name": "x" * 201},
        {"unknown": 1},
    ],
)
def test_what_a_container_could_not_take_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate({"image": "python:3.12", **change})


def test_a_spec_does_not_change() -> None:
    spec = JobSpec(image="python:3.12")
    with pytest.raises(ValidationError):
        spec.image = "other"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    "mounts",
    [
        [{"name": "a", "path": "/x"}, {"name": "b", "path": "/x"}],
        [{"name": "a", "path": "/x"}, {"name": "b", "path": "/x/y"}],
        [{"name": "a", "path": "/launch/inputs"}],
        [{"name": "a", "path": "/proc"}],
        [{"name": "a", "path": "/dev/shm"}],
        [{"name": "a", "path": "/"}],
        [{"name": "a", "path": "data"}],
        [{"name": "/etc", "path": "/data"}],
        ["/:/host"],
    ],
)
def test_a_mount_hides_nothing_and_names_no_path_of_the_host(mounts: list[object]) -> None:
    with pytest.raises(ValidationError, match="mounts"):
        JobSpec.model_validate({"image": "x", "mounts": mounts})


def test_mounts_beside_each_other_are_taken() -> None:
    spec = JobSpec.model_validate(
        {"image": "x", "mounts": [{"name": "a", "path": "/x/"}, {"name": "a", "path": "/xy"}]}
    )
    assert [mount.path for mount in spec.mounts] == ["/x", "/xy"]


@pytest.mark.parametrize(
    "put",
    [
        {"inputs": [{"job": "q/1", "path": "/x/y"}]},
        {"inputs": [{"job": "q/1", "path": "/x"}]},
        {"code": {"sha256": "a" * 64, "size": 1}, "workdir": "/x/"},
    ],
)
def test_nothing_is_unpacked_into_a_mount(put: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="in the mount 'a'; allowed: another path"):
        JobSpec.model_validate({"image": "x", "mounts": [{"name": "a", "path": "/x", "writable": True}], **put})
