"""What a queue asks for whose workers are EC2 instances: the `AwsProvider` section of its file.

Invariant: nothing secret can be written here; the address of NATS and its credentials may be named by where they lie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from launch.core.reference import ALLOWED, PATTERN, is_reference, parse_reference
from launch.fields import Labels, Scalar, Spec, Text, VisibleText
from launch.policy import AgentPolicy

MAX_USER_DATA = 8 * 1024
"""Bytes of the owner's own lines; EC2 takes 16 KiB in all."""
MAX_AGENT_POLICY = 4 * 1024
"""Bytes of the agents' policy as it is sent."""
MAX_TAGS = 40
"""EC2 takes 50 in all."""
MAX_TYPES = 20
_WHOLE_GB = re.compile(r"([0-9]{1,5}) ?(G|Gi|GB|GiB)?", re.ASCII)


class Market(StrEnum):
    """How instances are paid for."""

    ON_DEMAND = "on-demand"
    SPOT = "spot"
    SPOT_THEN_ON_DEMAND = "spot-then-on-demand"


def _one_or_list(value: object) -> object:
    return [value] if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


def _some_types(value: object) -> object:
    given = _one_or_list(value)
    if isinstance(given, (list, tuple)) and not 1 <= len(given) <= MAX_TYPES:
        raise ValueError(f"found a list of {len(given)}; allowed: an EC2 type, or a list of 1 to {MAX_TYPES}")
    return given


def _flat(value: tuple[str, ...]) -> str | list[str]:
    """One is shown as it was written."""
    return value[0] if len(value) == 1 else list(value)


def _like(pattern: str, allowed: str) -> BeforeValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: object) -> object:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"found {str(value)[:80]!r}; allowed: {allowed}")
        return value

    return BeforeValidator(check)


def _market(value: object) -> object:
    if value not in tuple(Market):
        raise ValueError(f"found {str(value)[:60]!r}; allowed: {', '.join(Market)}")
    return value


def _volume_size(value: object) -> object:
    """Whole GiB, which is what EBS sells."""
    match = _WHOLE_GB.fullmatch(str(value)) if not isinstance(value, bool) else None
    if match is None or not 1 <= int(match[1]) <= 65_536:
        raise ValueError(f"found {str(value)[:60]!r}; allowed: whole GiB, 1 to 65536, such as 100 or 100Gi")
    return int(match[1])


def _reference(value: object) -> object:
    if isinstance(value, str) and is_reference(value):
        return str(parse_reference(value))
    # What was found is not repeated: people put the credentials themselves here.
    raise ValueError(f"found something else than where it lies; allowed: {ALLOWED}")


def _address(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"found {str(value)[:60]!r}; allowed: nats://HOST:PORT, {ALLOWED}")
    if is_reference(value):
        return str(parse_reference(value))
    if "@" in value:
        raise ValueError(f"found an address with a login in it; allowed: one without, or {ALLOWED}")
    if not re.fullmatch(r"[A-Za-z0-9_.:/,\[\]-]{1,500}", value, re.ASCII):
        raise ValueError(f"found {value[:60]!r}; allowed: nats://HOST:PORT, {ALLOWED}")
    return value


def _source(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"env|dir:/\S{1,400}|(ssm|secretsmanager):\S{1,400}/", value, re.ASCII):
        return value
    raise ValueError(f"found {str(value)[:80]!r}; allowed: env, dir:/PATH, ssm:/PREFIX/ or secretsmanager:PREFIX/")


def _user_data(value: object) -> object:
    if not isinstance(value, str) or "\0" in value or len(value.encode(errors="replace")) > MAX_USER_DATA:
        raise ValueError(f"found something else; allowed: lines of bash, at most {MAX_USER_DATA} bytes")
    return value


def _agent_policy(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f"found {value[:80]!r}; allowed: the policy's keys (a file's name only in a queue's file)")
    return value


def _sendable(value: AgentPolicy) -> AgentPolicy:
    if (size := len(value.text().encode())) > MAX_AGENT_POLICY:
        raise ValueError(f"found a policy of {size} bytes as JSON; allowed: at most {MAX_AGENT_POLICY}")
    return value


def _tag_name(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[\w .:/=+@-]{1,128}", value):
        raise ValueError(f"found {str(value)[:80]!r}; allowed: 1 to 128 letters, digits, spaces and . : / = + @ - _")
    if value.lower().startswith(("aws:", "nats-launch:")):
        raise ValueError(f"found {value[:80]!r}; allowed: a name that begins neither with aws: nor with nats-launch:")
    return value


_STRINGS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

InstanceType = Annotated[str, _like(r"[a-z][a-z0-9-]*\.[a-z0-9-]+|[a-z]{1,16}", "an EC2 type, such as g4dn.xlarge")]
InstanceTypes = Annotated[
    tuple[InstanceType, ...],
    BeforeValidator(_some_types),
    PlainSerializer(_flat),
    WithJsonSchema(_STRINGS),
]
"""One type, or several in the order in which they are tried."""

Subnets = Annotated[
    tuple[Annotated[str, _like(r"subnet-[0-9a-f]{6,32}", "a subnet's id, such as subnet-0123456789abcdef0")], ...],
    BeforeValidator(_one_or_list),
    Field(max_length=20),
    WithJsonSchema(_STRINGS),
]
SecurityGroups = Annotated[
    tuple[Annotated[str, _like(r"sg-[0-9a-f]{6,32}", "a security group's id, such as sg-0123456789abcdef0")], ...],
    BeforeValidator(_one_or_list),
    Field(max_length=16),
    WithJsonSchema(_STRINGS),
]
Profile = Annotated[
    str,
    _like(
        r"[A-Za-z0-9+=,.@_-]{1,128}|arn:[a-z-]+:iam::\d{12}:instance-profile/[A-Za-z0-9+=,.@_/-]{1,512}",
        "an instance profile's name or ARN",
    ),
]
Ami = Annotated[str, _like(r"ami-[0-9a-f]{6,32}", "an image's id, such as ami-0123456789abcdef0")]
Secret = Annotated[str, BeforeValidator(_reference), WithJsonSchema({"type": "string", "pattern": PATTERN})]
"""Where a secret value lies."""
Address = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string"})]
"""A server's address, or where it lies."""
Source = Annotated[str, BeforeValidator(_source), WithJsonSchema({"type": "string"})]
Tags = Annotated[
    dict[Annotated[str, BeforeValidator(_tag_name)], Annotated[VisibleText, StringConstraints(max_length=256)]],
    Field(max_length=MAX_TAGS),
]
PolicySent = Annotated[
    AgentPolicy, BeforeValidator(_agent_policy, json_schema_input_type=str | AgentPolicy), AfterValidator(_sendable)
]
Volume = Annotated[int, BeforeValidator(_volume_size), WithJsonSchema({"type": ["integer", "string"]})]


class NatsAccess(Spec):
    """How an instance's agent gets to NATS: nothing secret stands here, only where it lies."""

    url: Address | None = None
    """The server's address, or where it is kept: ssm:NAME or secretsmanager:NAME. Unset: the scaler's own."""
    credentials: Secret | None = None
    """Where the contents of a .creds file are kept: ssm:NAME or secretsmanager:NAME."""

    if TYPE_CHECKING:

        def __init__(self, *, url: str | None = None, credentials: str | None = None) -> None: ...


class AwsProvider(Spec):
    """Workers are EC2 instances."""

    type: Literal["aws"] = "aws"
    region: Annotated[str, _like(r"[a-z0-9-]{1,63}", "a region, such as us-east-1")]
    """The AWS region, such as `us-east-1`."""
    instance_type: InstanceTypes
    """The EC2 instance type, such as `g4dn.xlarge`; or several, in the order in which they are tried."""
    ami: Ami | None = None
    """The machine image. Unset: a public one that fits the instance type."""
    subnets: Subnets = ()
    """The subnets to launch into, tried in this order. Unset: the account's default ones."""
    security_groups: SecurityGroups = ()
    """The security groups of an instance. Unset: the network's default one."""
    iam_profile: Profile | None = None
    """The instance profile (name or ARN): what an agent may look up, pull and store."""
    key_name: Annotated[Text, StringConstraints(min_length=1, max_length=255)] | None = None
    """The key pair to log in with. Unset: none."""
    volume_size: Volume | None = None
    """Size of the root volume in GiB. Unset: the image's."""
    volume_type: Annotated[str, _like("gp2|gp3|standard", "gp2, gp3 or standard")] | None = None
    """Kind of the root volume. Unset: gp3."""
    market: Annotated[Market, BeforeValidator(_market), WithJsonSchema({"enum": list(Market)})] = Market.ON_DEMAND
    """on-demand, spot, or spot-then-on-demand: on-demand where there is no spot capacity."""
    tags: Tags = Field(default_factory=dict)
    """Further tags of instances and volumes."""
    user_data: Annotated[str, BeforeValidator(_user_data)] | None = None
    """Further lines of bash that an instance runs before its agent starts."""
    agent_policy: PolicySent | None = None
    """What jobs may ask for: the keys of an `agent.yaml` or, in a queue's file, that file's path. Unset: the safe
    default."""
    nats: NatsAccess = NatsAccess()
    """How an instance's agent gets to NATS."""
    secrets: Annotated[tuple[Source, ...], BeforeValidator(_one_or_list), WithJsonSchema(_STRINGS)] = ()
    """Where agents look jobs' secrets up, as `launch agent --secrets` has it."""
    labels: Labels = Field(default_factory=dict)
    """Marks that agents are seen by, as `launch agent --label` has them."""
    prices: dict[InstanceType, Annotated[float, Field(ge=0, le=10_000)]] = Field(default_factory=dict)
    """Dollars an hour by instance type, for `launch queue cost`."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            type: Literal["aws"] = "aws",  # noqa: A002  (the field's name)
            region: str,
            instance_type: str | Sequence[str],
            ami: str | None = None,
            subnets: str | Sequence[str] = (),
            security_groups: str | Sequence[str] = (),
            iam_profile: str | None = None,
            key_name: str | None = None,
            volume_size: Scalar | None = None,
            volume_type: str | None = None,
            market: Market | str = ...,
            tags: Mapping[str, Scalar] = {},
            user_data: str | None = None,
            agent_policy: AgentPolicy | None = None,
            nats: NatsAccess = ...,
            secrets: str | Sequence[str] = (),
            labels: Mapping[str, Scalar] = {},
            prices: Mapping[str, float] = {},
        ) -> None: ...

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in ("instance_type", "subnets", "security_groups"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"found one of {name} twice: {', '.join(values)}; allowed: each once")
        return self
