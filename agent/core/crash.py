"""What users are told when the agent's own code fails: one line. The traceback is for the agent's log."""

from __future__ import annotations

from types import FrameType

OURS = ("agent", "launch")
MESSAGE_KEPT = 300


def account_of(error: BaseException) -> str:
    """Its type, the first line of what it says, and the innermost place in our own code: `module:line`."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).strip().partition("\n")[0][:MESSAGE_KEPT]
    return ", ".join([f"{type(error).__name__}: {text}" if text else type(error).__name__, *_place(error)])


def _place(error: BaseException) -> list[str]:
    place: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        if not place or _ours(trace.tb_frame):
            place = [f"at {_module(trace.tb_frame)}:{trace.tb_lineno}"]
        trace = trace.tb_next
    return place


def _ours(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] in OURS


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))
