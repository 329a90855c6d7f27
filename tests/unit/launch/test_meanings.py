"""What a field means is read from the text under it."""

from __future__ import annotations

from launch.fields import Spec
from launch.job import JobSpec
from launch.meanings import meanings


class Sample(Spec):
    """Not the text of a field."""

    plain: int
    told: int = 1
    """What it
    says."""
    last: str = ""
    "Short."


def test_the_text_under_a_field_is_its_meaning() -> None:
    assert meanings(Sample) == {"told": "What it\nsays.", "last": "Short."}


def test_a_model_without_source_has_none() -> None:
    assert meanings(type("Made", (Spec,), {})) == {}


def test_every_field_of_a_job_has_one() -> None:
    assert set(meanings(JobSpec)) <= set(JobSpec.model_fields)
    assert meanings(JobSpec)["image"]
