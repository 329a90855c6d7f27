"""What users of the Python API write passes mypy --strict (this file is checked) and means what it says."""

import ast
import inspect
from pathlib import Path

import pytest

import launch
from launch import job, queue
from launch.fields import Spec


async def the_example() -> launch.JobRecord:
    """The README's; checked, not run."""
    async with launch.connect() as client:
        spec = launch.JobSpec(image="python:3.12", command=["python", "train.py"])
        job = await client.submit("sine", spec, code=Path("examples/sine"))
        async for line in job.logs():
            print(line.text)  # noqa: T201
        return await job.wait()


async def what_methods_raise_and_return(client: launch.Client) -> launch.QueueStatus:
    """Checked, not run."""
    try:
        handle = await client.submit("q", launch.JobSpec(image="busybox"))
    except (launch.NotFound, launch.QueueFull, launch.BrokerUnavailable):
        raise
    except (launch.StoreError, launch.StoreUnavailable):
        raise
    except launch.SpecError as error:
        problem: launch.Problem = error.problems[0]
        raise RuntimeError(problem.found) from error
    why: launch.Why | None = await handle.why()
    assert why is not None
    return await client.queue_status("q")


def test_a_job_is_made_of_what_people_write() -> None:
    variables = {"LR": 0.1}
    words = ["python3", "-V"]
    spec = launch.JobSpec(
        image="busybox",
        entrypoint=("sh", "-c"),
        command=words,
        env=variables,
        resources=launch.Resources(cpu="0.5", memory="8Gi"),
        timeout="90s",
        stop_grace=5,
        shm_size="64M",
    )
    command: tuple[str, ...] = spec.command
    memory: int | None = spec.resources.memory
    timeout: float | None = spec.timeout
    assert (command, memory, timeout) == (("python3", "-V"), 8 * 2**30, 90.0)
    assert launch.JobSpec(image="busybox", command=["nice", 5, 0.1]).command == ("nice", "5", "0.1")


def test_what_goes_into_a_job_is_made_of_what_people_write() -> None:
    code = launch.CodeRef(sha256="0" * 64, size=1)
    spec = launch.JobSpec(
        image="busybox",
        env={"A": launch.SecretRef(secret="a"), "B": {"secret": "b"}, "C": "c"},
        code=launch.Shipped(ref=code, sent=True, warnings=()).ref,
        inputs=[launch.Input(job="q/1"), launch.Input(s3="s3://bucket/prefix/", path="/data")],
        artifacts=["/out/"],
        checkpoint_every="5m",
    )
    assert [spec.env["A"], spec.env["B"]] == [launch.SecretRef(secret="a"), launch.SecretRef(secret="b")]
    assert (spec.inputs[1].s3, spec.artifacts, spec.checkpoint_every) == ("s3://bucket/prefix", ("/out",), 300.0)
    assert launch.JobSpec.model_validate_json(spec.model_dump_json(exclude_unset=True)) == spec


def test_a_queue_is_made_of_what_people_write() -> None:
    spec = launch.QueueSpec(
        queue_name="q",
        provider=launch.LocalProvider(cpu=1, memory="1Gi"),
        idle_timeout="5s",
        job_types=["a"],
        defaults=launch.JobDefaults(timeout="1h", env={"A": "1"}),
    )
    idle: float | None = spec.idle_timeout
    types: tuple[str, ...] | None = spec.job_types
    assert (idle, types, spec.defaults.timeout) == (5.0, ("a",), 3600.0)
    assert launch.QueueSpec(queue_name="q", provider="static").provider == launch.StaticProvider()


@pytest.mark.parametrize("model", [job.Resources, job.JobSpec, queue.LocalProvider, queue.JobDefaults, queue.QueueSpec])
def test_the_constructor_that_type_checkers_see_takes_every_field(model: type[Spec]) -> None:
    [made] = [node for node in ast.walk(ast.parse(inspect.getsource(model))) if isinstance(node, ast.FunctionDef)
              and node.name == "__init__"]  # fmt: skip
    defaults = dict(zip([argument.arg for argument in made.args.kwonlyargs], made.args.kw_defaults, strict=True))
    assert list(defaults) == list(model.model_fields)
    assert {name for name, value in defaults.items() if value is None} == {
        name for name, field in model.model_fields.items() if field.is_required()
    }


@pytest.mark.parametrize(
    "name",
    [
        "NotFound", "QueueFull", "BrokerUnavailable", "QueueStatus", "Why", "Problem", "Shipped", "StoreError",
        "StoreUnavailable",
    ],
)  # fmt: skip
def test_what_methods_raise_and_return_is_exported(name: str) -> None:
    assert name in launch.__all__
    assert getattr(launch, name).__name__ == name
