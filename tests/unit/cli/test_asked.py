"""What the options of `launch submit` stand for."""

import pytest
import typer

from launch.cli.asked import environment, inputs, size
from launch.cli.submit import merged
from launch.errors import SpecError
from launch.fields import SecretRef
from launch.job import Input, JobSpec


def test_inputs_name_a_job_or_a_prefix_and_where_it_goes() -> None:
    texts = ["q/1", "q/1:/data", "s3://bucket", "s3://bucket/a/b", "s3://bucket/a:/in/put"]
    spec = merged(JobSpec(image="x"), {"inputs": inputs(texts)})
    assert spec.inputs == (
        Input(job="q/1"),
        Input(job="q/1", path="/data"),
        Input(s3="s3://bucket"),
        Input(s3="s3://bucket/a/b"),
        Input(s3="s3://bucket/a", path="/in/put"),
    )


@pytest.mark.parametrize("text", ["", ":/data", "q/1:data", "q/1:", "s3://b:x", "a:/b:/c\n:"])
def test_what_is_no_input_is_a_usage_error_that_names_the_option(text: str) -> None:
    with pytest.raises((typer.BadParameter, SpecError)) as error:
        merged(JobSpec(image="x"), {"inputs": inputs([text])})
    named = error.value.param_hint if isinstance(error.value, typer.BadParameter) else str(error.value)
    assert named
    assert "--input" in named or "inputs.0" in named


def test_lists_grow_and_all_else_is_replaced() -> None:
    base = JobSpec(image="x", inputs=[Input(job="q/1")], artifacts=["/a"], env={"A": SecretRef(secret="a"), "B": "1"})
    spec = merged(base, {"inputs": inputs(["q/2"]), "artifacts": ["/b"], "env": {"B": {"secret": "b"}}, "tty": True})
    assert spec.inputs == (Input(job="q/1"), Input(job="q/2"))
    assert spec.artifacts == ("/a", "/b")
    assert spec.env == {"A": SecretRef(secret="a"), "B": SecretRef(secret="b")}
    assert spec.tty
    assert merged(base, {"inputs": [], "artifacts": [], "tty": None}).model_fields_set == base.model_fields_set


def test_secrets_are_named_after_their_variable_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "value")
    assert environment(["A=1", "HERE"], ["TOKEN", "KEY=team/key"]) == {
        "A": "1", "HERE": "value", "TOKEN": {"secret": "TOKEN"}, "KEY": {"secret": "team/key"},
    }  # fmt: skip
    with pytest.raises(typer.BadParameter, match="'A' is given twice"):
        environment(["A=1"], ["A"])
    with pytest.raises(typer.BadParameter, match="'A' is given twice"):
        environment([], ["A=x", "A=y"])


@pytest.mark.parametrize("name", ["", "a b", "../x", "sk-" + "secret value"])
def test_a_bad_secret_name_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(SpecError, match=r"env\.KEY: found something else") as error:
        merged(JobSpec(image="x"), {"env": environment([], [f"KEY={name}"])})
    assert not name or name not in str(error.value)


def test_sizes() -> None:
    assert size("1Gi", "--code-limit") == 2**30
    with pytest.raises(typer.BadParameter) as error:
        size("much", "--code-limit")
    assert error.value.param_hint == "--code-limit"
