r"""Specs that lie: labels and tags that collide, YAML that explodes, numbers that no machine has, names in disguise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.errors import SpecError
from launch.specfile import load_job, load_policy, load_queue, parse_job_json, parse_queue_yaml
from launch.subjects import MAX_SPEC_BYTES
from launch.yamltext import MAX_NODES
from tests.hostile.lab import IMAGE


def job(**fields: Any) -> Any:
    """As a raw publisher sends it."""
    return parse_job_json(json.dumps({"image": IMAGE, **fields}).encode(), source="test")


def queue(tags: dict[str, str] | None = None, labels: dict[str, str] | None = None, **fields: Any) -> Any:
    """A queue of instances with such tags and labels."""
    provider = {"type": "aws", "region": "us-east-1", "instance_type": "m5.large", "tags": tags or {}}
    tree = {"queue_name": "q", "provider": {**provider, "labels": labels or {}, **fields}}
    return parse_queue_yaml(json.dumps(tree), source="test")


# -- labels and tags --------------------------------------------------------------------------------------------------

LABELS = {
    "empty key": {"": "x"},
    "blank key": {"  ": "x"},
    "long key": {"k" * 129: "x"},
    "key of two": {"a=b": "x"},
    "line in a key": {"a\nb": "x"},
    "turned key": {"a\u202eb": "x"},
    "unseen in a key": {"launch\u200b.queue": "x"},
    "escape": {"a": "\x1b[2J"},
    "line": {"a": "x\nlaunch.queue=other"},
    "turned": {"a": "\u202egpj"},
    "long": {"a": "x" * 1025},
    "many": {f"k{number}": "" for number in range(65)},
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_few_short_and_can_be_seen(kind: str) -> None:
    with pytest.raises(SpecError, match="allowed: "):
        job(labels=LABELS[kind])
    with pytest.raises(SpecError, match="allowed: "):
        queue(labels=LABELS[kind])


TAGS = {
    "ours": {"nats-launch:queue": "other"},
    "ours in capitals": {"NATS-Launch:cluster": "x"},
    "amazon's": {"aws:autoscaling:groupName": "x"},
    "ours with something unseen": {"nats-launch\u200b:queue": "x"},
    "ours with another hyphen": {"nats\u2010launch:queue": "x"},
    "line in a name": {"a\nb": "x"},
    "line": {"a": "x\ny"},
    "turned": {"a": "\u202ex"},
    "long": {"a": "x" * 257},
    "many": {f"k{number}": "" for number in range(41)},
}


@pytest.mark.parametrize("kind", TAGS)
def test_tags_are_such_as_ec2_takes_and_never_ours(kind: str) -> None:
    with pytest.raises(SpecError, match=r"allowed: |at most"):
        queue(tags=TAGS[kind])


@pytest.mark.parametrize("region", ["us-east-1.evil.example/#", "us east", "", "US-EAST-1", "a" * 64])
def test_a_region_is_no_address(region: str) -> None:
    with pytest.raises(SpecError, match="a region, such as"):
        queue(region=region)


# -- files ------------------------------------------------------------------------------------------------------------


def laughs(levels: int) -> str:
    """Each level names the one before nine times."""
    text = "a0: &a0 [lol]\n"
    for level in range(1, levels):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    return text


BOMBS: dict[str, tuple[str, str]] = {
    "aliases": (laughs(12), "aliases"),
    "merged": (laughs(9) + "b: &b {x: *a8}\nc: {<<: [*b, *b, *b]}\n", "aliases"),
    "itself": ("image: &a [*a]\n", "aliases"),
    "deep": ("[" * 50_000 + "]" * 50_000, "can't be read|nested"),
    "deep keys": ("".join(f"{' ' * depth}a:\n" for depth in range(600)), "can't be read|nested|unknown"),
    "wide": ("x: [" + "0," * (MAX_NODES + 1) + "]", "aliases|values"),
    "large": ("image: " + "x" * MAX_SPEC_BYTES, "larger file"),
    "program": ("image: !!python/object/apply:os.system [id]\n", "tag|constructor"),
    "binary": ("image: !!binary aGk=\n", "found a tag"),
    "zero bytes": ("image: a\0b\n", "special characters|can't be read"),
    "half a character": ('image: "\\ud800"\n', "surrogate|image reference|UTF-8"),
    "two documents": ("image: a\n---\nimage: b\n", "single document|document"),
    "nothing": ("", "found nothing|empty"),
    "a list": ("- a\n", "found a list"),
    "a key that is a mapping": ("? {a: b}\n: c\n", "key|unhashable"),
    "a number as wide as the file": ("retries: " + "9" * 200_000, "allowed"),
}


@pytest.mark.parametrize("reader", [load_job, load_queue, load_policy], ids=["job", "queue", "agent.yaml"])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_explodes_is_refused_in_words(tmp_path: Path, kind: str, reader: Callable[[Path], Any]) -> None:
    text, words = BOMBS[kind]
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as refused:
        reader(path)
    said = str(refused.value)
    assert len(said) < 8000
    assert "allowed" in said
    assert re.search(words, said), said


# -- numbers and names ------------------------------------------------------------------------------------------------

NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "-1", "9" * 5000, "1e5000", str(2**200), "\u0663", "0x10"]
FIELDS: list[tuple[str, Callable[[str], bytes]]] = [
    ("retries", lambda number: b'"retries": %b' % number.encode()),
    ("timeout", lambda number: b'"timeout": %b' % number.encode()),
    ("stop_grace", lambda number: b'"stop_grace": %b' % number.encode()),
    ("checkpoint_every", lambda number: b'"checkpoint_every": %b' % number.encode()),
    ("shm_size", lambda number: b'"shm_size": %b' % number.encode()),
    ("cpu", lambda number: b'"resources": {"cpu": %b}' % number.encode()),
    ("gpu", lambda number: b'"resources": {"gpu": %b}' % number.encode()),
    ("memory", lambda number: b'"resources": {"memory": %b}' % number.encode()),
    ("size", lambda number: b'"code": {"sha256": "%b", "size": %b}' % (b"a" * 64, number.encode())),
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:12])
@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field[0])
def test_numbers_that_no_machine_has_are_refused(field: tuple[str, Callable[[str], bytes]], number: str) -> None:
    """As bare numbers where JSON (or Python's reader of it) has such, and as strings everywhere."""
    for text in (number, f'"{number}"'):
        body = b'{"image": "%b", %b}' % (IMAGE.encode(), field[1](text))
        with pytest.raises(SpecError, match="allowed"):
            parse_job_json(body, source="test")


NAMES = [
    "tr\u0430in",
    "train\u200b",
    "\u202eniart",
    "\uff54rain",
    "train\n",
    "train\0",
    "Train",
    "train.high",
    "*",
    ">",
    "a" * 64,
    "-a",
    " a",
    "",
    "ⅷ",
    "\u0661",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_in_disguise_are_refused(name: str) -> None:
    """Names are ASCII, so none looks like another."""
    with pytest.raises(SpecError) as refused:
        job(job_type=name)
    assert all(char.isprintable() or char == "\n" for char in str(refused.value))
    with pytest.raises(SpecError):
        parse_queue_yaml(json.dumps({"queue_name": name}), source="test")


@pytest.mark.parametrize("image", ["busyb\u043ex", "a\u202eb", "a b", "-a", "a\n", "a\0", "../a", "", "a" * 600])
def test_images_in_disguise_are_refused(image: str) -> None:
    with pytest.raises(SpecError, match="allowed"):
        job(image=image)
