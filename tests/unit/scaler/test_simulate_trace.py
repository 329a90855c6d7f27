"""Traces: both forms, what is left out, and errors that name the line."""

from pathlib import Path

import pytest

from launch.core.capacity import Amount
from scaler.simulate.synthetic import Kind, generate
from scaler.simulate.trace import Job, Trace, TraceError, fitting, read

GIB = 1024**3
MACHINE = Amount(cpu_milli=48_000, memory_bytes=192 * GIB, gpus=4, slots=48)
SIMPLE = "submitted_s,duration_s,cpu,memory,gpu,job_type,priority\n"
OPENB = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n"
)


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_the_simple_form(tmp_path: Path) -> None:
    trace = read(written(tmp_path, SIMPLE + "100,30.5,2,8Gi,1,train,high\n40,5,0.5,512M,0,,\n"))
    assert trace.jobs == (
        Job(1, 0.0, 5.0, Amount(cpu_milli=500, memory_bytes=512_000_000, slots=1), "job", 2),
        Job(2, 60.0, 30.5, Amount(cpu_milli=2000, memory_bytes=8 * GIB, gpus=1, slots=1), "train", 1),
    )


def test_type_and_priority_may_be_left_out(tmp_path: Path) -> None:
    trace = read(written(tmp_path, "submitted_s,duration_s,cpu,memory,gpu\n0,1,1,1Gi,0\n"))
    assert [(job.job_type, job.rank) for job in trace.jobs] == [("job", 2)]


def test_the_openb_form_takes_the_duration_from_the_start_on(tmp_path: Path) -> None:
    rows = (
        "p-0,12000,16384,1,460,,LS,Running,1000,1600,1100\n"
        "p-1,4000,1024,0,0,,BE,Pending,1200,1300,\n"
        "p-2,4000,1024,2,1000,V100,BE,Failed,900,950,950\n"
    )
    trace = read(written(tmp_path, OPENB + rows))
    need = Amount(cpu_milli=12_000, memory_bytes=16 * GIB, gpus=1, slots=1)
    assert trace.jobs == (Job(1, 0.0, 500.0, need, "gpu1"),)
    assert trace.left_out == {"never scheduled": 1, "without a duration": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "line 1: found the columns a, b; missing: submitted_s"),
        ("", "line 1: found the columns none"),
        (SIMPLE + "0,1,1,1Gi,0,train,\n0,soon,1,1Gi,0,train,\n", "line 3: duration_s: found 'soon'; allowed: seconds"),
        (SIMPLE + "-1,1,1,1Gi,0,train,\n", "line 2: submitted_s: found '-1'; allowed: seconds, at least 0"),
        (SIMPLE + "0,nan,1,1Gi,0,train,\n", "line 2: duration_s: found 'nan'"),
        (SIMPLE + "0,1,1,lots,0,train,\n", "line 2: memory: found 'lots'; allowed: bytes or a number with Ki"),
        (SIMPLE + "0,1,-2,1Gi,0,train,\n", "line 2: cpu: found '-2'; allowed: a number of CPUs"),
        (SIMPLE + "0,1,1,1Gi,half,train,\n", "line 2: gpu: found 'half'; allowed: a whole number"),
        (SIMPLE + "0,1,1,1Gi,0,No Name,\n", "line 2: job_type: found 'No Name'"),
        (SIMPLE + "0,1,1,1Gi,0,train,soon\n", "line 2: priority: found 'soon'; allowed: critical, high, medium, low"),
        (SIMPLE + "0,1,1,1Gi\n", "line 2: found another number of fields than in the header"),
        (SIMPLE + "0,1,1,1Gi,0,train,,9\n", "line 2: found another number of fields than in the header"),
        (SIMPLE, "it holds no job that ran"),
    ],
)
def test_an_error_names_the_line_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(TraceError) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"submitted_s,\xff\xfe\n")
    with pytest.raises(TraceError, match="not UTF-8"):
        read(tmp_path / "x")
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "missing")
    with pytest.raises(TraceError, match="directory"):
        read(tmp_path)


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    small, large = Amount(cpu_milli=1000, slots=1), Amount(cpu_milli=1000, gpus=5, slots=1)
    jobs = (Job(1, 0, 10, large), Job(2, 5, 90_000, small), Job(3, 7, 10, small), Job(4, 9, 10, small))
    kept = fitting(Trace("t", jobs, {"never scheduled": 2}), MACHINE, first=1)
    assert kept.jobs == (Job(1, 0.0, 10, small),)
    assert kept.left_out == {
        "never scheduled": 2, "too large for the machine": 1, "longer than 86400 s": 1, "beyond the first": 1,
    }  # fmt: skip
    with pytest.raises(TraceError, match=r"no job is left to replay \(1 too large"):
        fitting(Trace("t", jobs[:1], {}), MACHINE)


@pytest.mark.parametrize("kind", Kind)
def test_made_up_traces_repeat_and_fit(kind: Kind) -> None:
    trace = generate(kind, 300, seed=7)
    assert len(trace.jobs) == 300
    assert trace == generate(kind, 300, seed=7)
    assert trace.jobs != generate(kind, 300, seed=8).jobs
    assert all(
        before.submitted_s <= after.submitted_s for before, after in zip(trace.jobs, trace.jobs[1:], strict=False)
    )
    assert len(fitting(trace, MACHINE).jobs) == 300


def test_a_rate_is_kept() -> None:
    jobs = generate(Kind.STEADY, 2000, seed=1, rate=10.0).jobs
    assert jobs[-1].submitted_s == pytest.approx(200, rel=0.1)
