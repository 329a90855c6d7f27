"""`launch simulate`: table, JSON, picture, and one clear line for what can't be replayed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli.main import command_line
from launch.errors import LaunchError

TRACE = "submitted_s,duration_s,cpu,memory,gpu\n" + "".join(f"{60 * n},90,12,8Gi,1\n" for n in range(40))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(TRACE)
    return path


def simulate(*args: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(command_line(), ["simulate", *map(str, args)], catch_exceptions=True)
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_table_of_all_policies_and_what_it_says(trace: Path) -> None:
    code, out, err = simulate(trace, "--boot", "30s", "--price", "1.5")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "mine: 40 jobs"
    assert lines[2].split()[:2] == ["POLICY", "SETTINGS"]
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "nats-launch", "lag count", "one machine a job", "batch window",
    ]  # fmt: skip
    assert "ours: " in out
    assert "decisions" in out
    assert "inst-h for the work alone" in out


def test_json_for_programs_repeats_with_its_seed(trace: Path) -> None:
    values = []
    for _ in range(2):
        code, out, _ = simulate(trace, "--json", "--seed", "4", "--spot-loss", "0.5", "--price", "2")
        assert code == 0
        values.append(json.loads(out))
        for run in values[-1]["runs"]:
            assert run["done"] == run["jobs"] == 40
            assert run["cost"] == pytest.approx(2 * run["instance_hours"], abs=1e-3)
            assert run.pop("decision_p99_ms") >= run.pop("decision_median_ms") >= 0
    assert values[0] == values[1]


def test_a_sweep_runs_many_and_shows_the_usual_ones(trace: Path) -> None:
    code, out, _ = simulate(trace, "--sweep", "--json", "--jobs", "5")
    assert code == 0
    runs = json.loads(out)["runs"]
    assert len(runs) > 40
    assert {run["policy"] for run in runs if run["usual"]} == {
        "nats-launch", "lag count", "one machine a job", "batch window",
    }  # fmt: skip
    assert len(simulate(trace, "--sweep", "--jobs", "5")[1].splitlines()) < 30


def test_bounds_and_timeout_come_from_a_queue_s_file(trace: Path, tmp_path: Path) -> None:
    queue = tmp_path / "queue.yaml"
    queue.write_text("queue_name: q\nmax_instances: 1\nidle_timeout: 10m\n")
    code, out, _ = simulate(trace, "--queue", queue, "--ours-only", "--json", "--boot-sigma", "0")
    assert code == 0
    [run] = json.loads(out)["runs"]
    assert run["most"] == 1
    # One machine, from the first arrival to ten minutes after the last end: 40 jobs a minute apart, then 90 s.
    assert run["instance_hours"] == pytest.approx((39 * 60 + 90 + 600) / 3600, rel=0.05)


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_a_picture(trace: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"plot{ending}"
    code, _, err = simulate(trace, "--out", out)
    assert code == 0
    assert err == f"launch: drawn: {out}\n"
    head = out.read_bytes()
    assert head.startswith(b"\x89PNG") if ending == ".png" else b"<svg" in head[:1000]
    again = tmp_path / f"again{ending}"
    simulate(trace, "--out", again)
    assert again.read_bytes() == head


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give a trace: FILE.csv, or --synthetic KIND"),
        (("--synthetic", "quiet"), "found 'quiet'; allowed: short, long, bursty, steady"),
        (("--synthetic", "short", "--boot", "soon"), "--boot"),
        (("--synthetic", "short", "--cpu", "none"), "--cpu"),
        (("--synthetic", "short", "--memory", "none"), "--memory"),
        (("--synthetic", "short", "--tune", "luck=1"), "found 'luck=1'; allowed: NAME=NUMBER"),
        (("--synthetic", "short", "--tune", "tau_s=x"), "found 'tau_s=x'; allowed: NAME=NUMBER"),
    ],
)
def test_usage_errors(args: tuple[str, ...], said: str) -> None:
    code, _, err = simulate(*args)
    assert code == 2
    # The terminal's frame wraps the text.
    assert said.replace(" ", "") in "".join(err.split()).replace("│", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("missing.csv",), "missing.csv: No such file"),
        (("--synthetic", "short", "--out", "x.gif"), "found the ending '.gif'; allowed: .svg, .png, .pdf"),
        (("--synthetic", "short", "--out", "no/such/x.svg"), "no/such: there is no such folder"),
        (("--synthetic", "short", "--cpu", "0.5", "--gpu", "0"), "no job is left to replay"),
    ],
)
def test_what_can_t_be_done_is_one_line(args: tuple[str, ...], said: str) -> None:
    with pytest.raises(LaunchError, match=said.replace(".", r"\.").replace("(", r"\(")):
        simulate(*args)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LaunchError, match=r"drawing needs matplotlib \(pip install 'nats-launch\[plot\]'\)"):
        simulate("--synthetic", "short", "--out", "x.svg")
    assert simulate("--synthetic", "short", "--jobs", "50", "--ours-only")[0] == 0


def test_an_interrupt_prints_what_there_is() -> None:
    """It comes as soon as the headline is out: of the dozens of runs that follow, the first takes seconds."""
    command = [sys.executable, "-m", "launch", "simulate", "--synthetic", "short", "--jobs", "20000", "--sweep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "synthetic short, seed 1: 20000 jobs\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "inst-h for the work alone" in out
    assert "launch: cut short: " in err
    assert "Traceback" not in err
