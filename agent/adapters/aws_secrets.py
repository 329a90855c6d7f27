"""Secrets in AWS: Systems Manager parameters (`ssm`) and Secrets Manager (`secretsmanager`).

Region and credentials are found the way the AWS tools do (environment, profile, the machine's role). One client a
source, kept for the life of the process: it holds a pool of connections and the role's credentials.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aioboto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from agent.core.secret_source import Kind, Source
from agent.ports import SecretRefused, SecretUnavailable
from launch.adapters.aws import prepared_session
from launch.errors import LaunchError

LIMIT_S = 20.0
"""For one look-up with all its tries."""

_CONFIG = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 3}}
_ABSENT = frozenset({"ParameterNotFound", "ResourceNotFoundException"})
_REFUSED = {
    "AccessDeniedException": "allow the agent's role to {action} it, and kms:Decrypt if it has a key of its own",
    "DecryptionFailure": "allow the agent's role kms:Decrypt with its key",
    "ExpiredTokenException": "give the agent credentials that are still valid",
    "IncompleteSignature": "give the agent valid credentials",
    "InvalidKeyId": "its key is disabled or deleted, or the agent's role may not use it",
    "InvalidParameterException": "the name can't be one of a secret",
    "InvalidRequestException": "it may be marked for deletion",
    "InvalidSignatureException": "give the agent valid credentials",
    "OptInRequired": "the agent's account may not use this service",
    "UnrecognizedClientException": "give the agent valid credentials",
    "ValidationException": "the name can't be one of a parameter",
}
"""What AWS says no to for good, and what to do about it; every other answer is worth another try."""
_CREDENTIALS = "give the agent credentials: a role of the machine, a profile, or AWS_ACCESS_KEY_ID"

_log = structlog.get_logger(__name__)


class AwsSecrets:
    """One prefix of one of the two services. Make it with `prepared`."""

    def __init__(self, source: Source, session: aioboto3.Session) -> None:
        self.source = source
        self._session = session
        self._client: Any = None
        self._open = AsyncExitStack()
        self._opening = asyncio.Lock()

    @classmethod
    def prepared(cls, source: Source) -> AwsSecrets:
        """Read what a client of the service is made from. Blocks for 0.2 to 2 seconds: it is a lot of JSON.

        Raises `LaunchError` if no region is configured.
        """
        session = prepared_session(str(source.kind))
        if session is None:
            hint = "set AWS_REGION, or a region in ~/.aws/config"
            raise LaunchError(f"no AWS region for the secrets in {source}", hint=hint)
        return cls(source, session)

    async def get(self, name: str) -> bytes | None:
        wanted = self.source.prefix + name
        try:
            async with asyncio.timeout(LIMIT_S):
                client = await self._connected()
                if self.source.kind is Kind.SSM:
                    return _of_parameter(await client.get_parameter(Name=wanted, WithDecryption=True))
                return _of_secret(await client.get_secret_value(SecretId=wanted))
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in _ABSENT:
                return None
            raise self._refusal(code, error, name) from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            # Such a client stays without: the next one looks again.
            await self.close()
            raise SecretRefused(f"{self.source.place(name)}: {error}", hint=_CREDENTIALS) from None
        except ParamValidationError:
            raise SecretRefused(f"{self.source.place(name)}: no name that AWS allows") from None
        except TimeoutError:
            raise SecretUnavailable(f"{self.source.place(name)}: AWS did not answer within {LIMIT_S:g} s") from None
        except (BotoCoreError, OSError) as error:
            raise SecretUnavailable(f"{self.source.place(name)}: AWS can't be reached: {error}") from None

    async def close(self) -> None:
        async with self._opening:
            self._client = None
            await self._open.aclose()

    async def _connected(self) -> Any:
        async with self._opening:
            if self._client is None:
                client = self._session.client(str(self.source.kind), config=Config(**_CONFIG))
                self._client = await self._open.enter_async_context(client)
            return self._client

    def _refusal(self, code: str, error: ClientError, name: str) -> LaunchError:
        """What an answer means."""
        place = self.source.place(name)
        # AWS names accounts and roles in its sentences, which are for the operator and not for who reads the record.
        _log.warning("AWS does not give a secret", place=place, code=code, answer=str(error))
        if code not in _REFUSED:
            return SecretUnavailable(f"{place}: {code}")
        action = "ssm:GetParameter" if self.source.kind is Kind.SSM else "secretsmanager:GetSecretValue"
        return SecretRefused(f"{place}: {code}", hint=_REFUSED[code].format(action=action))


def _of_parameter(answer: Any) -> bytes:
    return str(answer["Parameter"]["Value"]).encode()


def _of_secret(answer: Any) -> bytes:
    if "SecretString" in answer:
        return str(answer["SecretString"]).encode()
    return bytes(answer["SecretBinary"])
