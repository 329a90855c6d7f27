"""The EC2 instance metadata service, version 2: whether this spot instance is about to be taken away.

The service answers on a link-local address within a few milliseconds; on another machine nobody answers, which is not
worth more than a debug line. Source: "Spot Instance interruption notices", EC2 user guide.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import structlog

ADDRESS = "http://169.254.169.254"
ADDRESS_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""What the AWS SDKs read, too."""
TIMEOUT_S = 2.0
TOKEN_LIFE_S = 21600
_VENDOR = Path("/sys/class/dmi/id/sys_vendor")
_OK, _UNAUTHORIZED = 200, 401

_log = structlog.get_logger(__name__)


def metadata_address() -> str | None:
    """Where to ask: what the environment names, the usual address on an EC2 machine, or None."""
    named = os.environ.get(ADDRESS_VARIABLE)
    if named:
        return named.rstrip("/")
    try:
        return ADDRESS if "Amazon EC2" in _VENDOR.read_text() else None
    except OSError:
        return None


class Imds:
    """One client of the metadata service at `address`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._token: str | None = None
        self._session: aiohttp.ClientSession | None = None

    async def interruption(self) -> datetime | None:
        """When the instance will be stopped or terminated; None if no notice stands, or nobody answers."""
        try:
            return await self._interruption()
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            _log.debug("no word from the metadata service", error=str(error))
            return None

    async def close(self) -> None:
        """Release the connection. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _interruption(self) -> datetime | None:
        session = self._open()
        if self._token is None:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFE_S)}
            async with session.put(f"{self._address}/latest/api/token", headers=ttl) as answer:
                answer.raise_for_status()
                self._token = await answer.text()
        url = f"{self._address}/latest/meta-data/spot/instance-action"
        async with session.get(url, headers={"X-aws-ec2-metadata-token": self._token}) as answer:
            if answer.status == _UNAUTHORIZED:
                self._token = None
            if answer.status != _OK:
                return None
            notice = json.loads(await answer.text())
        if notice["action"] not in ("terminate", "stop", "hibernate"):
            return None
        return datetime.fromisoformat(notice["time"]).astimezone(UTC)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self._session
