"""A real image registry on loopback, as a child process, and images pushed to it.

Debian's docker-registry, unpacked under `build/` if this machine does not have it. Engines take a registry on
127.0.0.0/8 without TLS.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.support import engine
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 20.0
DOWNLOAD_LIMIT_S = 120.0

_LISTENING = re.compile(r'msg="listening on (127\.0\.0\.1:\d+)')


class RegistryError(RuntimeError):
    """The registry could not be found, started, or pushed to; one line, or its last ones."""


def registry_binary() -> str:
    """The path of a docker-registry, downloaded from the system's packages if there is none; never installed."""
    found = shutil.which("docker-registry")
    if found is not None:
        return found
    unpacked = ROOT / "build" / "registry"
    binary = unpacked / "usr" / "bin" / "docker-registry"
    if not binary.is_file():
        if shutil.which("apt-get") is None:
            raise RegistryError("no docker-registry, and no apt-get to download it: install it")
        unpacked.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "-qq", "download", "docker-registry"], cwd=unpacked)
        package = next(unpacked.glob("docker-registry_*.deb"))
        _run(["dpkg-deb", "-x", str(package), str(unpacked)], cwd=unpacked)
    return str(binary)


USER, PASSWORD = "alice", "correct-horse"
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n"
"""The password as bcrypt has it; nothing else is understood."""


def docker_config(folder: Path, address: str, password: str = PASSWORD) -> Path:
    """A folder for DOCKER_CONFIG that is logged in to a registry."""
    folder.mkdir(parents=True, exist_ok=True)
    encoded = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": encoded}}}))
    return folder


class Registry:
    """One registry with its images in `store`; a `private` one wants `USER` and `PASSWORD`.

    With TLS and a wrong password an engine tries a registry on loopback without TLS, too, and tells of that alone.
    """

    def __init__(self, store: Path, *, private: bool = False, tls: bool = False, within: Sequence[str] = ()) -> None:
        """`within` is the beginning of a command line that runs it somewhere else, as in a network namespace."""
        self.address = ""
        """`127.0.0.1:PORT`, what an image's name begins with."""
        self._store = store
        self._private = private
        self._tls = tls
        self._within = within
        self._server = ServerProcess("docker-registry", self._hear, start_limit_s=START_LIMIT_S)

    def start(self) -> Self:
        """Start it and return once it listens; after a `stop` at the same address."""
        self._store.mkdir(parents=True, exist_ok=True)
        config = self._store / "config.yml"
        config.write_text(
            "version: 0.1\n"
            f'storage: {{filesystem: {{rootdirectory: "{self._store / "data"}"}}}}\n'
            + (self._guarded() if self._private else f'http: {{addr: "{self._listens}"}}\n')
        )
        try:
            self._server.start([*self._within, registry_binary(), "serve", str(config)])
        except RuntimeError as error:
            raise RegistryError(str(error)) from None
        return self

    def stop(self) -> None:
        """End it."""
        self._server.stop()

    def push(self, image: str, name: str) -> str:
        """Put a local image into the registry under a name; returns its reference. It is not here under that name."""
        reference = f"{self.address}/{name}"
        _docker("tag", image, reference)
        try:
            login = ["--config", str(docker_config(self._store / "login", self.address))] if self._private else []
            _docker(*login, "push", "--quiet", reference)
        finally:
            forget(reference)
        return reference

    def push_new(self, image: str, name: str, *, size: int = 0) -> str:
        """Push an image that is nowhere else: `image` and a layer of its own, of `size` random bytes.

        Returns its reference, which is not here.
        """
        made = f"launch-test/{secrets.token_hex(8)}:new"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "own").write_bytes(secrets.token_bytes(max(16, size)))
            (Path(folder) / "Dockerfile").write_text(f"FROM {image}\nCOPY own /own\n")
            _docker("build", "--quiet", "--tag", made, folder)
        try:
            return self.push(made, name)
        finally:
            forget(made)

    def push_for(self, architecture: str, reference: str) -> str:
        """Put a name for an image of one architecture alone beside an image of this registry; returns it."""
        name, _, tag = reference.partition("/")[2].rpartition(":")
        at = f"http://{self.address}/v2/{name}/manifests/"
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        with urlopen(Request(at + tag, headers={"Accept": kind}), timeout=START_LIMIT_S) as reply:  # noqa: S310
            size, digest = len(reply.read()), reply.headers["Docker-Content-Digest"]
        platform = {"architecture": architecture, "os": "linux"}
        entry = {"mediaType": kind, "size": size, "digest": digest, "platform": platform}
        of_several = "application/vnd.docker.distribution.manifest.list.v2+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": of_several, "manifests": [entry]}).encode()
        sent = Request(at + architecture, data=body, headers={"Content-Type": of_several}, method="PUT")  # noqa: S310
        urlopen(sent, timeout=START_LIMIT_S).close()  # noqa: S310
        return f"{self.address}/{name}:{architecture}"

    @property
    def _listens(self) -> str:
        return self.address or "127.0.0.1:0"

    def _guarded(self) -> str:
        """The part of the configuration that asks for a login, over TLS or not; makes what that needs."""
        users = self._store / "htpasswd"
        users.write_text(_HTPASSWD)
        auth = f'auth: {{htpasswd: {{realm: test, path: "{users}"}}}}\n'
        if not self._tls:
            return f'http: {{addr: "{self._listens}"}}\n{auth}'
        key, certificate = str(self._store / "key.pem"), str(self._store / "cert.pem")
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        named = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        _run([*made, *named, "-keyout", key, "-out", certificate])
        return f'http: {{addr: "{self._listens}", tls: {{certificate: "{certificate}", key: "{key}"}}}}\n{auth}'

    def _hear(self, line: str) -> bool:
        match = _LISTENING.search(line)
        if match is not None:
            self.address = match[1]
        return match is not None


def forget(reference: str) -> None:
    """Take a name from the engine's images; no error if it does not have it."""
    engine.call("DELETE", f"/images/{quote(reference, safe='')}")


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_LIMIT_S,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
    )
    if done.returncode != 0:
        raise RegistryError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


def _docker(*arguments: str) -> None:
    _run([shutil.which("docker") or "docker", *arguments])
