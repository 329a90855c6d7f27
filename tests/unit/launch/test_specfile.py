"""Specs as users write them: what is read, and how a refusal explains itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.errors import Problem, SpecError
from launch.job import JobSpec
from launch.queue import AwsProvider, QueueSpec
from launch.record import JobRecord
from launch.specfile import load_job, load_queue, parse_job_json, parse_job_yaml, parse_queue_yaml
from launch.subjects import MAX_SPEC_BYTES
from tests.unit.launch.test_job import specs
from tests.unit.launch.test_record import first

JOB_YAML = """\
job_type: train-model
image: wandb/deeplearning:latest
command:
  - python
  - train.py
  - --learning-rate
  - 0.001
  - --epochs
  - 100
env:
  MY_API_KEY: "your_secret_key"
resources:
  cpu: 2
  gpu: 1
  memory: "8Gi"
"""

QUEUE_YAML = """\
queue_name: gpu-training-queue
provider:
  type: aws
  region: us-east-1
  instance_type: g4dn.xlarge
  # ami: ami-0abcdef1234567890
min_instances: 0
max_instances: 5
agent_image: wandb/agent:latest
"""


def problems_of(text: str, *, queue: bool = False) -> list[Problem]:
    """What is wrong with a file."""
    with pytest.raises(SpecError) as caught:
        (parse_queue_yaml if queue else parse_job_yaml)(text, source="file.yaml")
    assert str(caught.value).startswith("file.yaml: ")
    return list(caught.value.problems)


# -- what users write -----------------------------------------------------------------------------------------------


def test_the_job_file_as_written(tmp_path: Path) -> None:
    path = tmp_path / "my_training_job.yaml"
    path.write_text(JOB_YAML)
    spec = load_job(path)
    assert spec.job_type == "train-model"
    assert spec.image == "wandb/deeplearning:latest"
    assert spec.command == ("python", "train.py", "--learning-rate", "0.001", "--epochs", "100")
    assert spec.env == {"MY_API_KEY": "your_secret_key"}
    assert (spec.resources.cpu, spec.resources.gpu, spec.resources.memory) == (2, 1, 8 * 2**30)


def test_the_queue_file_as_written(tmp_path: Path) -> None:
    path = tmp_path / "my_queue.yaml"
    path.write_text(QUEUE_YAML)
    spec = load_queue(path)
    assert spec.queue_name == "gpu-training-queue"
    assert spec.provider == AwsProvider(region="us-east-1", instance_type="g4dn.xlarge")
    assert (spec.min_instances, spec.max_instances) == (0, 5)
    assert spec.agent_image == "wandb/agent:latest"


@pytest.mark.parametrize(
    "written",
    [
        *("0.001", "1e-3", "100", "1_000", "0x1F", "010", "1.10", ".5", "+1", "-0", "1e400", ".inf", ".nan"),
        *("true", "Yes", "no", "2001-01-01", "12:30:00", "=", "0.1000000000000000055511151231257827"),
    ],
)
def test_scalars_reach_the_container_as_written(written: str) -> None:
    spec = parse_job_yaml(f"image: x\ncommand: [run, {written}]\nenv:\n  A: {written}\n", source="s")
    assert spec.command == ("run", written)
    assert spec.env == {"A": written}


@pytest.mark.parametrize("written", ["0.001", "1e-3", "100", "-0", "1E400", "1.10", "12345678901234567890123"])
def test_numbers_in_json_reach_the_container_as_written(written: str) -> None:
    spec = parse_job_json(b'{"image": "x", "command": [%s, true]}' % written.encode(), source="s")
    assert spec.command == (written, "true")


@given(specs)
def test_what_a_client_sends_is_what_an_agent_reads(given_spec: dict[str, object]) -> None:
    spec = JobSpec.model_validate(given_spec)
    assert parse_job_json(spec.model_dump_json(exclude_unset=True).encode(), source="s") == spec
    assert parse_job_json(json.dumps(given_spec).encode(), source="s") == spec


def test_every_field_can_be_written_in_a_file() -> None:
    spec = parse_job_yaml(
        JOB_YAML
        + "name: a title\nentrypoint: [sh, -c]\nworkdir: /w\nuser: 1000\ntimeout: 1h30m\nretries: 3\nstop_grace: 5\n"
        + "shm_size: 64M\nmax_log_bytes: 1Gi\nlabels: {team: vision, run: 7}\n",
        source="s",
    )
    assert (spec.timeout, spec.retries, spec.stop_grace, spec.user) == (5400, 3, 5, "1000")
    assert (spec.shm_size, spec.max_log_bytes) == (64_000_000, 2**30)
    assert spec.labels == {"team": "vision", "run": "7"}
    queue = parse_queue_yaml(
        "queue_name: q\nprovider: {type: local, cpu: 0.5, memory: 1G}\nidle_timeout: 2m\njob_types: [a, b]\n"
        "max_jobs_per_agent: 4\ndefaults: {env: {A: 1}, resources: {gpu: 1}, timeout: 1d}\n",
        source="s",
    )
    assert (queue.idle_timeout, queue.max_jobs_per_agent, queue.defaults.timeout) == (120, 4, 86400)
    assert (queue.job_types, queue.defaults.env, queue.defaults.resources.gpu) == (("a", "b"), {"A": "1"}, 1)


# -- how a refusal explains itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("comand: [a]", "comand: found an unknown key; allowed: .*; did you mean 'command'\\?"),
        ("resources: {memry: 1}", "resources.memry: found an unknown key; allowed: cpu, gpu, memory; .*'memory'\\?"),
        ("resources: {memory: lots}", "resources.memory: found 'lots'; allowed: bytes or .* such as 8Gi"),
        ("resources: {cpu: two}", "resources.cpu: found 'two'; allowed: a number of CPUs"),
        ("resources: {gpu: 1.5}", "resources.gpu: found '1.5'; allowed: a whole number"),
        ("timeout: soon", "timeout: found 'soon'; allowed: seconds or numbers with ms, s, m, h or d, such as 90s"),
        ("retries: -1", "retries: found '-1'; allowed: at least 0"),
        ("retries: 5000", "retries: found '5000'; allowed: at most 1000"),
        ("command: python train.py", "command: found the string .*; allowed: a list, such as \\[python, train.py\\]"),
        ("command: {a: b}", "command: found keys with values; allowed: a list"),
        ("env: [a]", "env: found a list; allowed: keys with values"),
        ("env: {A: [b]}", "env.A: found a list; allowed: a string or a number"),
        ("env: {A: }", 'env.A: found nothing; allowed: a string \\(write "" for an empty one\\)'),
        ("env: {~: c}", "env.~: found the name '~'; allowed: letters, digits"),
        ("IMAGES: y", "IMAGES: found an unknown key; .*did you mean 'image'\\?"),
        ("env: {a b: c}", "env.a b: found the name 'a b'; allowed: letters, digits"),
        ("resources: 3", "resources: found '3'; allowed: keys with values"),
        ("job_type: Train", "job_type: found 'Train'; allowed: 1 to 63 of a-z"),
    ],
)
def test_a_job_file_problem_names_key_found_and_allowed(text: str, problem: str) -> None:
    [found] = problems_of(f"image: x\n{text}\n")
    assert re.match(problem, str(found)), str(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("provider: {type: gcp}", "provider.type: found 'gcp'; allowed: aws, local or static"),
        ("provider: {type: asw}", "provider.type: found 'asw'; .*did you mean 'aws'\\?"),
        ("provider: {region: x}", "provider.type: found nothing; allowed: aws, local or static"),
        ("provider: {type: aws, region: x}", "provider.instance_type: found nothing; allowed: a value"),
        ("provider: {type: local, regon: x}", "provider.regon: found an unknown key; allowed: type, cpu, memory"),
        ("provider: gcp", "provider.type: found 'gcp'; allowed: aws, local or static"),
        ("provider: Sttic", "provider.type: found 'Sttic'; allowed: aws, local or static; did you mean 'static'\\?"),
        ("provider: {type: LOCAL}", "provider.type: found 'LOCAL'; .*did you mean 'local'\\?"),
        ("provider: [local]", "provider: found a list; allowed: keys with values"),
        ("min_instances: 5", "found min_instances 5 with max_instances 1; allowed: min_instances of at most"),
        ("max_instance: 5", "max_instance: found an unknown key; .*did you mean 'max_instances'\\?"),
        ("defaults: {resources: {gpus: 3}}", "defaults.resources.gpus: found an unknown key; .*'gpu'\\?"),
    ],
)
def test_a_queue_file_problem_names_key_found_and_allowed(text: str, problem: str) -> None:
    [found] = problems_of(f"queue_name: q\n{text}\n", queue=True)
    assert re.match(problem, str(found)), str(found)


@pytest.mark.parametrize("kind", ["local", "static"])
def test_a_provider_that_needs_no_settings_may_be_its_type_alone(kind: str) -> None:
    short = parse_queue_yaml(f"queue_name: q\nprovider: {kind}\n", source="s")
    assert short == parse_queue_yaml(f"queue_name: q\nprovider: {{type: {kind}}}\n", source="s")
    with pytest.raises(SpecError, match=r"provider\.region: found nothing"):
        parse_queue_yaml("queue_name: q\nprovider: aws\n", source="s")


def test_all_problems_are_told_at_once() -> None:
    found = problems_of("command: a\nretries: x\nfoo: 1\n")
    assert {problem.where for problem in found} == {"image", "command", "retries", "foo"}


def test_a_file_is_named_and_a_missing_one_too(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    with pytest.raises(SpecError, match=r"job\.yaml: can't be read: No such file"):
        load_job(path)
    path.write_text("image: x\nfoo: 1\n")
    with pytest.raises(SpecError, match=r"job\.yaml: foo: found an unknown key"):
        load_job(path)
    path.write_bytes(b"image: \xff\xfe\n")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_job(path)
    path.write_bytes(b"#" * (MAX_SPEC_BYTES + 1))
    with pytest.raises(SpecError, match="larger file"):
        load_job(path)
    with pytest.raises(SpecError, match="can't be read"):
        load_queue(tmp_path)


@pytest.mark.parametrize(
    ("section", "fallen"),
    [
        ("env:\nMY_API_KEY: your_secret_key\n", "MY_API_KEY"),
        ("env:\nMyKey: x\nsecond_key: y\n", "MyKey, second_key"),
        ("resources:\ncpu: 2\ngpu: 1\nmemory: 8Gi\n", "cpu, gpu, memory"),
    ],
)
def test_lost_indentation_in_a_job_file_is_recognised(section: str, fallen: str) -> None:
    [found] = problems_of(f"image: x\n{section}")
    assert found.where == section.partition(":")[0]
    assert f"{fallen} at top level: the indentation was lost" in found.found


def test_lost_indentation_in_a_queue_file_is_recognised() -> None:
    text = "\n".join(line.strip() for line in QUEUE_YAML.splitlines())
    [found] = problems_of(text, queue=True)
    assert found.where == "provider"
    assert "type, region, instance_type at top level: the indentation was lost" in found.found


def test_a_whole_file_without_indentation_is_recognised() -> None:
    text = "\n".join(line.strip() for line in JOB_YAML.splitlines())
    assert any("the indentation was lost" in problem.found for problem in problems_of(text))


# -- what is no spec at all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing; allowed: the keys job_type"),
        ("# only a comment", "found nothing"),
        ("- a\n- b\n", "found a list"),
        ("just text", "found a string;"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("image: x\n\tcommand: [a]", "line 2, column 1"),
        ("image: x\nimage: y", "line 2, column 1: found the key 'image' twice; allowed: each key once"),
        ("image: x\nnull: 1", "null: found an unknown key"),
        ('image: x\n"": 1', "'': found an unknown key"),
        ("image: x\nenv:\n  A: 1\n  A: 2\n", "found the key 'A' twice"),
        ("image: x\n---\nimage: y", "another document"),
        ("image: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("image: x\nenv: *nowhere", "undefined alias"),
        ("image: x\n? [a, b]\n: c", "unhashable"),
        ("image: \0", "special characters are not allowed"),
        ("image: x\ncommand: &a [*a]", "aliases that expand without end"),
        ("[" * 50_000, "allowed: "),
        ('image: x\nenv: {A: "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_text_that_is_no_spec_is_explained(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_job_yaml(text, source="file.yaml")
    assert message in str(caught.value)


def test_a_bomb_of_aliases_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    [found] = problems_of("\n".join(lines))
    assert "aliases that expand without end" in found.found


def test_an_alias_is_fine() -> None:
    spec = parse_job_yaml("image: x\nenv: &e {A: 1}\nlabels: *e\n", source="s")
    assert spec.labels == spec.env == {"A": "1"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "an empty body"),
        (b"  \n", "an empty body"),
        (b"not json", "a body that is not JSON"),
        (b"\xff\xfe\x00", "a body that is not JSON"),
        (b"null", "found nothing"),
        (b"[1]", "found a list"),
        (b'"x"', "found a string;"),
        (b'{"image": "x", "image": "y"}', "image: found it twice"),
        (b'{"image": "x", "resources": {"cpu": 1, "cpu": 2}}', "cpu: found it twice"),
        (b'{"image": "x", "imag": 1}', "did you mean 'image'"),
        (b"[" * 100_000, "a body that is not JSON"),
        (b"x" * (MAX_SPEC_BYTES + 1), f"found a body of {MAX_SPEC_BYTES + 1} bytes"),
        (b'{"image": "x", "env": {"A": "\\ud800"}}', "half of a surrogate pair"),
        (b'{"image": "x", "\\ud800": 1}', "half of a surrogate pair"),
        (b'{"image": "x", "a": ' + b"[" * 900 + b"]" * 900 + b"}", "allowed: "),
        (b'{"image": "x", "retries": 1e999}', "retries"),
        (b'{"image": "x", "[key]": 1}', "[key]: found an unknown key"),
        (b'{"image": "x", "": 1}', "found an unknown key"),
    ],
)
def test_a_body_that_is_no_spec_is_explained(body: bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_job_json(body, source="queue.q.train")
    assert message in str(caught.value)
    assert_fit_for_a_record(caught.value)


def assert_fit_for_a_record(error: SpecError) -> None:
    """What an agent does with it next."""
    record = first().model_copy(update={"message": str(error)})
    assert JobRecord.model_validate_json(record.model_dump_json()).message == str(error)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.text(st.characters())),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=10,
)
any_text = st.text(st.characters(blacklist_categories=[]))
fields = st.sampled_from([*JobSpec.model_fields, *QueueSpec.model_fields, "cpu", "gpu"])


@given(
    st.one_of(
        st.binary(),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.one_of(fields, any_text), st.one_of(json_values, any_text)).map(
            lambda tree: json.dumps({"image": "x", **tree}).encode()
        ),
    )
)
def test_any_body_is_a_spec_or_a_spec_error(body: bytes) -> None:
    try:
        spec = parse_job_json(body, source="s")
    except SpecError as error:
        assert_fit_for_a_record(error)
    else:
        record = first().model_copy(update={"spec": spec})
        assert JobRecord.model_validate_json(record.model_dump_json(exclude_none=True)).spec == spec


@given(st.one_of(st.text(), st.text(alphabet="abc:-[]{}&*!|>'\"%@` \n\t#?,~"), st.lists(fields).map(":\n".join)))
def test_any_text_is_a_spec_or_a_spec_error(text: str) -> None:
    for parse in (parse_job_yaml, parse_queue_yaml):
        try:
            parse(text, source="s")
        except SpecError as error:
            assert_fit_for_a_record(error)
