"""The helper inside a job: one line of output for each call, never an error, nothing but the standard library."""

import ast
import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import launch
from launch import run
from launch.subjects import METRIC_MARK

SOURCES = Path(launch.__file__).parent


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(METRIC_MARK) for line in lines), lines
    return [json.loads(line.removeprefix(METRIC_MARK)) for line in lines]


def test_a_call_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    launch.run.log(loss=0.1, step=3)
    assert capsys.readouterr().out == '@metrics {"loss": 0.1, "step": 3}\n'
    run.log({"val/loss": 2, "train": {"loss": 1.5}}, step=4, time=1.5)
    assert printed(capsys) == [{"val/loss": 2, "train.loss": 1.5, "step": 4, "time": 1.5}]


class Scalar:
    """As numpy and torch have them."""

    def __float__(self) -> float:
        return 0.25


class Bad:
    def __float__(self) -> float:
        raise RuntimeError("only one element tensors can be converted")


def test_what_is_no_number_is_left_out_and_never_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    run.log(a=Scalar(), b=Bad(), c="1", d=None, e=float("nan"), f=10**400, g=[1], h=object(), i=True, step=Bad())
    run.log({1: 2}, step=Scalar())  # type: ignore[dict-item]  # what users do
    run.log("loss")  # type: ignore[arg-type]  # as above
    run.log(loss=float("inf"), step=1)
    run.log({"step": 1})
    run.log()
    assert printed(capsys) == [{"a": 0.25, "i": 1}, {"1": 2, "step": 0.25}]


def test_a_closed_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    run.log(loss=1)
    monkeypatch.setattr(sys, "stdout", None)
    run.log(loss=1)


class Slow(io.StringIO):
    """Gives way in the middle of a call."""

    def write(self, text: str) -> int:
        for character in text:
            super().write(character)
        return len(text)


def log_fifty() -> None:
    for n in range(50):
        run.log(n=n)


def test_threads_do_not_mix_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Slow()
    monkeypatch.setattr(sys, "stdout", out)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=log_fifty) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    lines = out.getvalue().splitlines()
    assert sorted(lines) == sorted(f'@metrics {{"n": {n}}}' for n in range(50) for _ in range(4))


def bare(script: str, folder: Path) -> str:
    """Run by an interpreter that sees the standard library and `folder`, and nothing that is installed."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {script}"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_without_its_dependencies_is_enough(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    said = bare("import launch; launch.run.log(loss=0.5); assert 'pydantic' not in sys.modules", tmp_path)
    assert said == '@metrics {"loss": 0.5}\n'
    said = bare("from launch.run import log; log(loss=0.5)", tmp_path)
    assert said == '@metrics {"loss": 0.5}\n'


def test_the_file_alone_is_enough(tmp_path: Path) -> None:
    shutil.copy(SOURCES / "run.py", tmp_path)
    assert bare("import run; run.log(loss=0.5)", tmp_path) == '@metrics {"loss": 0.5}\n'


@pytest.mark.parametrize("name", ["run.py", "__init__.py"])
def test_an_old_python_reads_it(name: str) -> None:
    ast.parse((SOURCES / name).read_text(), feature_version=(3, 8))
