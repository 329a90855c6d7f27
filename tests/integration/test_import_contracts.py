"""The import contracts bite: each of them notices a module planted to break it, standard library included."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("launch", "agent", "scaler")

PURE = "core is pure"
PLANTED = [
    *[(PURE, "launch/core/planted.py", f"import {name}\n") for name in ("asyncio", "logging", "os", "random")],
    *[(PURE, "agent/core/planted.py", f"import {name}\n") for name in ("socket", "subprocess", "time", "structlog")],
    (PURE, "scaler/core/planted.py", "from scaler.adapters import planted\n"),
    ("agent and scaler never import each other", "agent/planted.py", "import scaler.core\n"),
    ("agent and scaler never import each other", "scaler/planted.py", "def later() -> None:\n    import agent.core\n"),
    ("launch imports neither agent nor scaler", "launch/planted.py", "def later() -> None:\n    import agent.core\n"),
    ("nats is imported by launch.adapters only", "agent/planted_nats.py", "import nats.js\n"),
    ("aiodocker and aiohttp are imported by", "launch/planted_docker.py", "import aiodocker\n"),
    ("aioboto3 is imported by", "scaler/planted_aws.py", "import aioboto3\n"),
]
ALLOWED = [
    ("launch/cli/planted.py", "def later() -> None:\n    import agent.core\n"),
    ("launch/adapters/planted.py", "import nats\n"),
    ("agent/adapters/planted.py", "import aiodocker\nimport aiohttp\n"),
    ("scaler/adapters/planted.py", "import aioboto3\n"),
]


def lint_imports(root: Path) -> tuple[int, str]:
    """Check a copy of the project; return the exit code and the report."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        check=False,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=50,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )
    return done.returncode, done.stdout + done.stderr


def plant(root: Path, path: str, text: str) -> None:
    """Write a module, and the package it is in where that is not there yet."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    (target.parent / "__init__.py").touch()
    target.write_text(text)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages' layout, empty but for what a test plants, with the project's contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        for folder in (package, f"{package}/core", f"{package}/adapters"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "__init__.py").touch()
    return tmp_path


def test_what_the_layout_allows_is_kept(checkout: Path) -> None:
    for path, text in ALLOWED:
        plant(checkout, path, text)
    code, report = lint_imports(checkout)
    assert code == 0, report


def test_every_planted_violation_is_found(checkout: Path) -> None:
    plant(checkout, "scaler/adapters/planted.py", "")
    for number, (_, path, text) in enumerate(PLANTED):
        plant(checkout, path.replace(".py", f"_{number}.py"), text)
    code, report = lint_imports(checkout)
    assert code == 1, report
    for number, (contract, path, _) in enumerate(PLANTED):
        planted = path.replace(".py", f"_{number}").replace("/", ".")
        section = report.split("Broken contracts")[1].split(contract)[-1]
        assert planted in section, f"{contract} missed {planted}:\n{report}"
