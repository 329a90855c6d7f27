"""The one S3 client of a process, and the translation of what can go wrong with it.

Made when it is first needed: reading what a client is made from takes tenths of a second, so that happens in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  (botocore's, not Python's)
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.session import Session as PlainSession

from launch.errors import NotFound, StoreClosed, StoreError, StoreUnavailable

FALLBACK_REGION = "us-east-1"
"""S3 itself tells where a bucket is; a client needs some region to ask."""

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
ATTEMPTS = 4
CONNECTIONS = 64

TRANSPORT_ERRORS = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    aiohttp.ClientError,
    TimeoutError,
    OSError,
)
"""No answer, or only a part of one."""

_TRANSIENT = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role"
_HINTS = {
    "AccessDenied": "allow s3:GetObject, PutObject, DeleteObject, ListBucket, ListBucketMultipartUploads, "
    "ListMultipartUploadParts and AbortMultipartUpload on it",
    "NoSuchBucket": "make it, or name another one under artifacts: in the queue's file",
    "InvalidAccessKeyId": _NO_CREDENTIALS,
    "SignatureDoesNotMatch": _NO_CREDENTIALS,
    "ExpiredToken": "renew the credentials",
    "InvalidToken": "renew the credentials",
    "XMinioStorageFull": "delete what is no longer needed",
    "QuotaExceeded": "delete what is no longer needed",
}
_HINTS["403"] = _HINTS["AccessDenied"]
_WORDS = {
    "AccessDenied": "access denied",
    "403": "access denied",
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "ExpiredToken": "the credentials have expired",
    "XMinioStorageFull": "the store is full",
    "QuotaExceeded": "the store is full",
}


class S3Client:
    """Opens itself once; `close` ends it."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None

    async def get(self) -> Any:
        """The vendor's client. Raises `StoreClosed` if none can be made."""
        async with self._opening:
            if self._client is None:
                try:
                    session, config = await asyncio.to_thread(_prepared)
                    client = session.client("s3", config=config)
                    self._client = await self._stack.enter_async_context(client)
                except (BotoCoreError, ValueError) as error:
                    raise StoreClosed(f"no S3 client can be made: {error}", hint=_hint_of(error)) from error
        return self._client

    async def close(self) -> None:
        """Release its connections. Idempotent."""
        async with self._opening:
            self._client = None
            await self._stack.aclose()


def _prepared() -> tuple[aioboto3.Session, AioConfig]:
    """What the client is made from; a plain client that is never used leaves it in the loader's memory."""
    plain = PlainSession()
    region = plain.get_config_variable("region") or os.environ.get("AWS_REGION") or FALLBACK_REGION
    plain.set_credentials("none", "none")
    used = plain.create_client("s3", region_name=region)
    elsewhere = "amazonaws.com" not in used.meta.endpoint_url
    core = AioSession()
    core.register_component("data_loader", plain.get_component("data_loader"))
    config = AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        # The checksums are ours: a part's is made in a thread, a file's is checked as it is read.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if elsewhere else "auto"},
    )
    return aioboto3.Session(botocore_session=core, region_name=region), config


def code_of(error: ClientError) -> str:
    """S3's own word for what went wrong; of an answer without a body, its status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    """Whether there is no such object."""
    return code_of(error) in ("NoSuchKey", "404")


@contextlib.contextmanager
def translated(what: str, where: str) -> Iterator[None]:
    """Turn the vendor's errors into this project's, once, here."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = error.response.get("Error", {}).get("Message", "")
        if code in _TRANSIENT or status >= 500:
            raise StoreUnavailable(f"{what} in {where}: {code} {said}".rstrip()) from error
        if code == "NoSuchKey":
            raise NotFound(f"{what}: it is not in {where}") from error
        words = _WORDS.get(code) or f"{code} {said}".strip()
        kind = StoreClosed if code in _WORDS or code in _HINTS else StoreError
        raise kind(f"{what} in {where}: {words}", hint=_HINTS.get(code)) from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound) as error:
        raise StoreClosed(f"{what} in {where}: {_first_line(error)}", hint=_hint_of(error)) from error
    except TRANSPORT_ERRORS as error:
        raise StoreUnavailable(f"{what} in {where}: {_first_line(error)}") from error
    except BotoCoreError as error:
        raise StoreError(f"{what} in {where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return "there are no AWS credentials" if isinstance(error, NoCredentialsError) else text


def _hint_of(error: Exception) -> str | None:
    return _NO_CREDENTIALS if "redential" in type(error).__name__ or isinstance(error, ProfileNotFound) else None
