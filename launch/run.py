"""Report numbers from inside a job, with nothing but the standard library.

    import launch

    launch.run.log(loss=0.1, step=3)

prints one line, `@metrics {"loss": 0.1, "step": 3}`, which the job's agent makes a point of; `launch metrics JOB`
draws them while the job runs. Outside of a job it is only a line of output. This file also works by itself: copy it
beside your script, and `import run`. Python 3.8 or newer.

Nothing that is logged raises: what is no number is left out, and so is the line if stdout is closed. A training that
runs for a week must not end over its bookkeeping.
"""

from __future__ import annotations

import json
import math
import sys
import threading
from typing import Any

__all__ = ["log"]

_one_at_a_time = threading.Lock()


def log(values: dict[str, Any] | None = None, *, step: Any = None, time: Any = None, **more: Any) -> None:
    """Report values by name: `log(loss=0.1, step=3)`, or `log({"val/loss": 0.1}, step=3)`.

    A value is a number, or what `float()` makes one: scalars of numpy, torch and so on. One level of nesting gives
    dotted names: `{"train": {"loss": 0.1}}` is `train.loss`. `step` is the job's own count; `time` is in seconds since
    1970, else it is the moment of printing. The line goes to stdout, which has to be at the beginning of a line.
    """
    given = {**(values if isinstance(values, dict) else {}), **more}
    point: dict[str, Any] = {}
    for name, value in given.items():
        inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {str(name): value}
        for key, one in inner.items():
            number = _number(one)
            if number is not None:
                point[key] = number
    if not point.keys() - {"step", "time"}:
        return
    for key, own in (("step", step), ("time", time)):
        number = _number(own)
        if number is not None:
            point[key] = number
    line = f"@metrics {json.dumps(point)}\n"
    try:
        with _one_at_a_time:
            sys.stdout.write(line)
            sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        pass  # stdout is closed, or there is none


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        number = float(value)
        if not math.isfinite(number):
            return None
        return int(value) if isinstance(value, int) else number
    except Exception:  # noqa: BLE001  (whatever a stranger's __float__ raises)
        return None
