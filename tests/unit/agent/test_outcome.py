"""Whose doing it was: the job's, its configuration's, or the infrastructure's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.outcome import Outcome, StopCause, outcome_of_exit, reason_of_engine_error
from agent.ports import Container, EngineError
from launch.core.states import CAUSES, Cause, Event, Reason
from launch.job import JobSpec, Resources

SPEC = JobSpec(job_type="train", image="x", resources=Resources(memory="2Gi"), timeout="90s")
FINISHED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def ended(code: int, *, state: str = "exited", oom_killed: bool = False, error: str = "") -> Container:
    finished = "2026-01-02T03:04:05.678901234Z"
    return Container("id", "name", state, code, oom_killed, error, "2026-01-02T03:04:05Z", finished, {})


def outcome(container: Container, stop: StopCause | None = None, tail: bytes = b"", spec: JobSpec = SPEC) -> Outcome:
    return outcome_of_exit(container, stop=stop, spec=spec, tail=tail)


def test_exit_0_is_success() -> None:
    assert outcome(ended(0)) == Outcome(Event.SUCCEED, None, "exited with code 0", 0)


@pytest.mark.parametrize(
    ("code", "tail", "message"),
    [
        (1, b"", "exited with code 1"),
        (3, b"one\n\xff two \x1b[0m\n\n", "exited with code 3; last output: \ufffd two  [0m"),
        (127, b"sh: foo: not found\n", "exited with code 127, which a shell gives for a command that it can't find"),
        (126, b"", "exited with code 126, which a shell gives for a file that it can't execute"),
        (139, b"", "exited with code 139 (SIGSEGV)"),
        (255, b"", "exited with code 255"),
    ],
)
def test_another_code_is_the_jobs_own_fault(code: int, tail: bytes, message: str) -> None:
    got = outcome(ended(code), tail=tail)
    assert (got.event, got.reason, got.exit_code) == (Event.FAIL, Reason.EXIT_NONZERO, code)
    assert got.message.startswith(message)


def test_a_long_last_line_is_cut() -> None:
    assert len(outcome(ended(1), tail=b"x" * 2000).message) < 260


def test_out_of_memory_names_the_limit() -> None:
    got = outcome(ended(137, oom_killed=True))
    assert (got.reason, got.exit_code) == (Reason.OOM_KILLED, 137)
    assert "its limit is 2Gi" in got.message
    unlimited = outcome(ended(137, oom_killed=True), spec=JobSpec(image="x"))
    assert "it has no limit" in unlimited.message


def test_a_child_that_was_killed_for_memory_is_mentioned_only() -> None:
    got = outcome(ended(1, oom_killed=True))
    assert got.reason is Reason.EXIT_NONZERO
    assert "killed for memory (its limit is 2Gi)" in got.message
    assert outcome(ended(0, oom_killed=True)).event is Event.SUCCEED


@pytest.mark.parametrize(("code", "name"), [(137, "SIGKILL"), (143, "SIGTERM")])
def test_a_kill_that_nobody_here_asked_for_is_the_infrastructures(code: int, name: str) -> None:
    got = outcome(ended(code))
    assert (got.event, got.reason, got.exit_code) == (Event.FAIL, Reason.ENGINE_ERROR, code)
    assert name in got.message
    assert CAUSES[Reason.ENGINE_ERROR] is Cause.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("stop", "event", "reason"),
    [
        (StopCause.TIMED_OUT, Event.FAIL, Reason.TIMED_OUT),
        (StopCause.CANCELLED, Event.CANCEL, Reason.CANCELLED),
        (StopCause.PREEMPTED, Event.FAIL, Reason.PREEMPTED),
        (StopCause.DRAINED, Event.FAIL, Reason.PREEMPTED),
        (StopCause.FENCED, Event.FAIL, Reason.AGENT_LOST),
    ],
)
@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_a_stop_wins_over_every_exit_code(stop: StopCause, event: Event, reason: Reason, code: int) -> None:
    got = outcome(ended(code, oom_killed=code == 137), stop)
    assert (got.event, got.reason, got.exit_code) == (event, reason, code)


def test_every_stop_cause_has_an_outcome() -> None:
    assert {outcome(ended(137), stop).reason for stop in StopCause} == {
        Reason.TIMED_OUT,
        Reason.CANCELLED,
        Reason.PREEMPTED,
        Reason.AGENT_LOST,
    }


def test_the_timeout_is_in_the_message() -> None:
    assert outcome(ended(143), StopCause.TIMED_OUT).message == "stopped at its timeout of 1m30s"


def test_what_had_finished_before_the_signal_was_sent_was_not_stopped() -> None:
    before, after = FINISHED - timedelta(milliseconds=1), FINISHED + timedelta(milliseconds=1)

    def at(moment: datetime) -> Outcome:
        return outcome_of_exit(ended(0), stop=StopCause.CANCELLED, spec=SPEC, tail=b"", stop_sent_at=moment)

    assert at(before).event is Event.CANCEL
    assert at(after).event is Event.SUCCEED


@pytest.mark.parametrize("code", [126, 127])
def test_a_container_that_could_not_execute_its_command(code: int) -> None:
    got = outcome(ended(code, state="created", error='exec: "nope": executable file not found in $PATH'))
    assert (got.event, got.reason, got.exit_code) == (Event.FAIL, Reason.COMMAND_NOT_FOUND, code)
    assert "nope" in got.message


@pytest.mark.parametrize(
    ("code", "tail"),
    [
        (127, b"[FATAL tini (6)] exec nosuch failed: No such file or directory\n"),
        (126, b"noise\n[FATAL tini (7)] exec /etc failed: Permission denied\n"),
        (1, b"[FATAL tini (7)] exec /app failed: Exec format error\n"),
    ],
)
def test_a_command_that_the_init_could_not_execute(code: int, tail: bytes) -> None:
    got = outcome(ended(code), tail=tail)
    assert (got.reason, got.exit_code) == (Reason.COMMAND_NOT_FOUND, code)
    assert "exec " in got.message
    assert "failed: " in got.message
    assert "tini" not in got.message


def test_a_container_that_was_never_started() -> None:
    assert outcome(ended(0, state="created")).reason is Reason.ENGINE_ERROR
    no_user = ended(128, state="created", error="unable to find user x: no matching entries in passwd file")
    assert outcome(no_user).reason is Reason.INVALID_SPEC


@pytest.mark.parametrize("state", ["dead", "removing", "running", "paused"])
def test_a_container_in_a_state_that_tells_nothing(state: str) -> None:
    got = outcome(ended(0, state=state))
    assert (got.event, got.reason, got.exit_code) == (Event.FAIL, Reason.ENGINE_ERROR, None)
    assert state in got.message


@given(
    code=st.integers(0, 255),
    oom_killed=st.booleans(),
    state=st.sampled_from(["created", "exited", "dead"]),
    stop=st.sampled_from([None, *StopCause]),
    tail=st.binary(max_size=300),
)
def test_every_exit_has_an_outcome(
    code: int, oom_killed: bool, state: str, stop: StopCause | None, tail: bytes
) -> None:
    got = outcome(ended(code, state=state, oom_killed=oom_killed), stop, tail)
    assert (got.event is Event.SUCCEED) == (got.reason is None)
    assert (got.event is Event.CANCEL) == (got.reason is Reason.CANCELLED)
    if got.event is Event.SUCCEED:
        assert (code, state, stop) == (0, "exited", None)
    assert got.message.isprintable()


# What Docker Engine 20.10.24 said, word for word where it was tried.
RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
ERRORS = [
    ("pull", 500, 'Head "https://r.io/v2/x": no basic auth credentials', Reason.IMAGE_UNAUTHORIZED),
    ("pull", 500, "unauthorized: incorrect username or password", Reason.IMAGE_UNAUTHORIZED),
    ("pull", 403, "denied: requested access to the resource is denied", Reason.IMAGE_UNAUTHORIZED),
    (
        "pull",
        404,
        "pull access denied for nosuch, repository does not exist or may require 'docker login': denied: requested",
        Reason.IMAGE_NOT_FOUND,
    ),
    ("pull", 404, "manifest for x:1 not found: manifest unknown: manifest unknown", Reason.IMAGE_NOT_FOUND),
    ("pull", 404, "something new", Reason.IMAGE_NOT_FOUND),
    ("pull", 400, "invalid reference format: repository name must be lowercase", Reason.INVALID_SPEC),
    ("pull", 500, "dial tcp: lookup registry-1.docker.io on 10.0.0.1:53: no such host", Reason.IMAGE_PULL_FAILED),
    ("pull", 500, "dial tcp 127.0.0.1:1: connect: connection refused", Reason.IMAGE_PULL_FAILED),
    ("pull", 500, "unexpected EOF", Reason.IMAGE_PULL_FAILED),
    ("pull", 500, "write /var/lib/docker/tmp/x: no space left on device", Reason.IMAGE_PULL_FAILED),
    (
        "pull",
        404,
        "no matching manifest for linux/arm64/v8 in the manifest list entries",
        Reason.IMAGE_PULL_FAILED,
    ),
    ("pull", 429, "toomanyrequests: You have reached your pull rate limit.", Reason.IMAGE_PULL_FAILED),
    ("create", 404, "No such image: x:1", Reason.IMAGE_PULL_FAILED),
    ("create", 400, "No command specified", Reason.COMMAND_NOT_FOUND),
    ("create", 400, "Minimum memory limit allowed is 6MB", Reason.INVALID_SPEC),
    ("create", 400, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available", Reason.UNSCHEDULABLE),
    ("create", 400, "Unknown runtime specified foo", Reason.ENGINE_ERROR),
    ("create", 500, "Cannot mkdir: /bin/sh is not a directory", Reason.INVALID_SPEC),
    ("create", 400, 'invalid mount config for type "bind": bind source path does not exist: /x', Reason.ENGINE_ERROR),
    (
        "start",
        500,
        'error gathering device information while adding custom device "/dev/x": no such file or directory',
        Reason.ENGINE_ERROR,
    ),
    ("create", 500, "mkdir /var/lib/docker/overlay2/x: no space left on device", Reason.ENGINE_ERROR),
    ("create", 500, "dial unix containerd.sock: connection refused", Reason.ENGINE_ERROR),
    ("start", 400, RUNC + 'exec: "nosuch": executable file not found in $PATH: unknown', Reason.COMMAND_NOT_FOUND),
    ("start", 400, RUNC + 'exec: "/etc": permission denied: unknown', Reason.COMMAND_NOT_FOUND),
    ("start", 400, RUNC + 'exec: "/x": stat /x: no such file or directory: unknown', Reason.COMMAND_NOT_FOUND),
    ("start", 500, 'could not select device driver "" with capabilities: [[gpu]]', Reason.ENGINE_ERROR),
    (
        "start",
        500,
        RUNC + 'exec: "nvidia-container-runtime-hook": executable file not found in $PATH',
        Reason.ENGINE_ERROR,
    ),
    ("start", 500, RUNC + 'error mounting "/x" to rootfs at "/y": not a directory', Reason.INVALID_SPEC),
    ("start", 400, "unable to find user nobody2: no matching entries in passwd file", Reason.INVALID_SPEC),
    ("start", 500, RUNC + 'chdir to cwd ("/nope") set in config.json failed: permission denied', Reason.INVALID_SPEC),
    ("start", 500, "driver failed programming external connectivity on endpoint", Reason.ENGINE_ERROR),
    # What keeps the job's network namespace has ended just now.
    ("create", 404, "No such container: 77bdb2ed01d1", Reason.ENGINE_ERROR),
    ("start", 404, "No such container: 77bdb2ed01d1", Reason.ENGINE_ERROR),
    ("start", 409, "cannot join network of a non running container: 77bdb2ed01d1", Reason.ENGINE_ERROR),
    ("remove", 500, "driver overlay2 failed to remove root filesystem", Reason.ENGINE_ERROR),
]


@pytest.mark.parametrize(("step", "status", "said", "reason"), ERRORS)
def test_the_engines_words_tell_whose_doing_it_was(step: str, status: int, said: str, reason: Reason) -> None:
    fault = reason_of_engine_error(EngineError(step, status, said))
    assert fault.reason is reason
    assert fault.message.endswith(said)
    assert len(fault.message) > len(said) + 2, "it says what to do, too"


def test_a_worker_without_a_gpu_runtime_is_told_what_to_install() -> None:
    error = EngineError("start", 500, 'could not select device driver "" with capabilities: [[gpu]]')
    assert "install the NVIDIA container toolkit" in reason_of_engine_error(error).message
