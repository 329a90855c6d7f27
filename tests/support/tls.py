"""Certificates for loopback, by openssl: an authority, a server and clients, as PEM files."""

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A certificate authority of its own, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca-key.pem"
        _openssl("req", "-x509", *_KEY, "-subj", "/CN=test", "-keyout", self._key, "-out", self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for `CN=<name>`, good for a server on loopback and for a client; and its key."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName = IP:127.0.0.1\nextendedKeyUsage = serverAuth, clientAuth\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        signed_by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", extensions, "-out", certificate)
        return certificate, key


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
