"""The images that tests run, built on this machine without any registry.

Owns only the call of `.ci/images`, which holds how each image is made and keeps one that is already there.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUSYBOX = "launch-test/busybox:1"
BUILD_LIMIT_S = 300.0


class ImageBuildError(RuntimeError):
    """A local image could not be built; carries the builder's last words."""


def build(kind: str, name: str) -> str:
    """Build the image of a kind (`busybox`, `python`, `digits`) under a name unless it is there; return the name."""
    done = subprocess.run(
        [str(ROOT / ".ci" / "images"), kind, name],
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        message = f"could not build the image {name}: {done.stderr.strip()[-2000:]}"
        raise ImageBuildError(message)
    return name


def ensure_busybox() -> str:
    """Return the name of the busybox image, built if it is not there: every applet, no libc, a few MB."""
    return build("busybox", BUSYBOX)
