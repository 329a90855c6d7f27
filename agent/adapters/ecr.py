"""Logins to Amazon's registries: tokens of ECR, by the credentials that the AWS tools would find.

One token a region, kept until shortly before it expires (AWS gives them for twelve hours).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from agent.core.registry_login import Credential, parse_basic
from agent.ports import Login, SecretRefused, SecretUnavailable
from launch.adapters.aws import prepared_session
from launch.core.registry import ecr_region

LIMIT_S = 20.0
"""For one request with all its tries."""
RENEW_BEFORE = timedelta(minutes=30)
"""A pull may take long, and each of its layers is asked for with the token."""
MAX_REGIONS = 64

_CONFIG = {"connect_timeout": 5, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 3}}
_BUSY = frozenset({"ServerException", "InternalFailure", "ServiceUnavailable", "ThrottlingException", "RequestTimeout"})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Token:
    credential: Credential = field(repr=False)
    expires_at: datetime


class EcrLogins:
    """A `agent.ports.LoginSource` for `*.dkr.ecr.*.amazonaws.com`; of any other registry it knows nothing."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._tokens: dict[str, _Token] = {}
        self._asking = asyncio.Lock()

    async def login(self, registry: str) -> Login | None:
        region = ecr_region(registry)
        if region is None:
            return None
        async with self._asking:
            token = self._tokens.get(region)
            if token is None or token.expires_at - self._now() < RENEW_BEFORE:
                token = await self._fetch(region)
                if len(self._tokens) >= MAX_REGIONS:
                    self._tokens.clear()
                self._tokens[region] = token
        return Login(token.credential, f"a token of ECR in {region}")

    async def close(self) -> None:
        self._tokens.clear()

    async def _fetch(self, region: str) -> _Token:
        place = f"a token of ECR in {region}"
        try:
            async with asyncio.timeout(LIMIT_S):
                session = await asyncio.to_thread(prepared_session, "ecr", region=region)
                if session is not None:  # None where no region is known, and this one is given
                    async with session.client("ecr", config=Config(**_CONFIG)) as client:
                        return _token_of(await client.get_authorization_token())
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            # AWS names accounts and roles in its sentences, which are for the operator alone.
            _log.warning("AWS gives no token for its registry", region=region, code=code, answer=str(error))
            if code in _BUSY:
                raise SecretUnavailable(f"{place}: {code}") from None
            raise SecretRefused(f"{place}: {code}", hint="allow the role ecr:GetAuthorizationToken") from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise SecretRefused(f"{place}: {error}", hint="give the agent AWS credentials") from None
        except TimeoutError:
            raise SecretUnavailable(f"{place}: AWS did not answer within {LIMIT_S:g} s") from None
        except (BotoCoreError, OSError) as error:
            raise SecretUnavailable(f"{place}: AWS can't be reached: {error}") from None
        except (LookupError, ValueError, TypeError):
            raise SecretUnavailable(f"{place}: an answer that makes no sense") from None
        raise SecretRefused(f"{place}: there is no such region")


def _token_of(answer: Any) -> _Token:
    given = answer["authorizationData"][0]
    return _Token(parse_basic(str(given["authorizationToken"])), given["expiresAt"].astimezone(UTC))
