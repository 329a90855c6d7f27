"""The field types that job and queue specs are made of.

Each takes what people write (`8Gi`, `90s`, `0.001`) and refuses the rest with `found …; allowed: …`, the form that
`launch.specfile` turns into a `Problem`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Protocol, SupportsIndex

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    WithJsonSchema,
)

from launch.core.quantity import (
    CPU_ALLOWED,
    DURATION_PATTERN,
    MEMORY_PATTERN,
    format_duration,
    format_memory,
    parse_cpu,
    parse_duration,
    parse_memory,
)
from launch.errors import LaunchError
from launch.subjects import NAME_PATTERN, NAME_RULE, JobId, is_name


class Spec(BaseModel):
    """Base of everything that users write: frozen, and an unknown key is an error.

    A field is annotated with what is read from it. What a constructor takes is wider (`memory="8Gi"`, a list for a
    tuple), so each model says that for type checkers in an `__init__` of its own; pydantic's is what runs.
    """

    # Built when first used: a command uses few of them, and building them all was 20 ms of its start.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def _text(value: object) -> object:
    """What a container sees of a scalar: strings as they are, numbers as written, booleans as YAML has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        raise ValueError('found nothing; allowed: a string (write "" for an empty one)')
    if not isinstance(value, str):
        raise ValueError(f"found a {_kind(value)}; allowed: a string or a number")
    if "\0" in value:
        raise ValueError("found a NUL character; allowed: text without one")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("found half of a surrogate pair; allowed: text that can be written in UTF-8") from None
    return value


def _words(value: object) -> object:
    """A command line as a list; a lone string is refused, since splitting it is a guess."""
    if isinstance(value, str):
        try:
            hint = ", ".join(shlex.split(value))
        except ValueError:
            hint = "program, argument"
        raise ValueError(f"found the string {value[:60]!r}; allowed: a list, such as [{hint[:80]}]")
    return value


def _name(value: object) -> object:
    if not isinstance(value, str) or not is_name(value):
        raise ValueError(f"found {str(value)[:80]!r}; allowed: {NAME_RULE}")
    return value


_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}", re.ASCII)


def _image(value: object) -> object:
    # No engine takes a name with dots for a folder; as part of a path of its API they would lead elsewhere.
    if not isinstance(value, str) or not _IMAGE.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError(f"found {str(value)[:80]!r}; allowed: an image reference, such as python:3.12")
    return value


def _cpu(value: object) -> float:
    return parse_cpu(value) / 1000


_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}", re.ASCII)


def _env_name(value: object) -> object:
    if not isinstance(value, str) or not _ENV_NAME.fullmatch(value):
        raise ValueError(f"found the name {str(value)[:80]!r}; allowed: letters, digits, '_', '.' and '-'")
    return value


_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,254}", re.ASCII)


def _secret_name(value: object) -> object:
    if not isinstance(value, str) or not _SECRET_NAME.fullmatch(value) or ".." in value:
        # What was found is not repeated: people put the secret itself here.
        raise ValueError("found something else than a secret's name; allowed: letters, digits, '_', '-', '.' and '/'")
    return value


S3_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]{1,700})?$"


def _s3_url(value: object) -> object:
    if isinstance(value, str):
        value = value.rstrip("/")
        if re.fullmatch(S3_PATTERN, value) and "//" not in value[5:]:
            return value
    raise ValueError(f"found {str(value)[:80]!r}; allowed: s3://bucket or s3://bucket/prefix")


def _job_id(value: object) -> object:
    try:
        return str(JobId.parse(str(value)))
    except LaunchError as error:
        raise ValueError(f"found {str(value)[:80]!r}; allowed: {error.hint}") from None


def _container_path(value: object) -> object:
    _text(value)
    if isinstance(value, str) and 1 < len(value) <= 1024 and value.startswith("/"):
        parts = value.strip("/").split("/")
        if all(part not in ("", ".", "..") for part in parts):
            return "/" + "/".join(parts)
    raise ValueError(f"found {str(value)[:80]!r}; allowed: an absolute path in the container, such as /data")


def _mapping(value: object) -> object:
    if value is None:
        raise ValueError("found nothing; allowed: keys with values, indented below it")
    return value


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "mapping"
    return "list" if isinstance(value, (list, tuple)) else type(value).__name__


_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean"]}

Text = Annotated[str, BeforeValidator(_text), WithJsonSchema(_SCALAR)]
"""Any scalar, kept as the text that was written."""

Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]
"""A command line: a list of `Text`."""

Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})]
"""A queue name or a job type."""

Image = Annotated[str, BeforeValidator(_image), WithJsonSchema({"type": "string"})]
"""An image reference as Docker writes it."""

Scalar = str | float
"""What a constructor takes for a `Text` or an amount: as people write it, or as a number."""


class WordsGiven(Protocol):
    """What a constructor takes for `Words`: a list or tuple; no lone string, since that contains only strings."""

    def __getitem__(self, index: SupportsIndex, /) -> Scalar: ...
    def __iter__(self) -> Iterator[Scalar]: ...
    def __len__(self) -> int: ...
    def __contains__(self, value: object, /) -> bool: ...


AS_WRITTEN = {"as_written": True}
"""Context for `model_dump`: amounts as people write them (`512Mi`, `5s`) instead of plain numbers."""


def _memory_text(value: int, info: SerializationInfo) -> int | str:
    return format_memory(value) if info.context == AS_WRITTEN else value


def _duration_text(value: float, info: SerializationInfo) -> float | str:
    return format_duration(value) if info.context == AS_WRITTEN else value


Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    PlainSerializer(_memory_text),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": MEMORY_PATTERN}]}),
]
"""Bytes, written `8Gi`, `512M`, `1.5G`, or as a number."""

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(_duration_text),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": DURATION_PATTERN}]}),
]
"""Seconds, written `90s`, `2h`, `1d`, or as a number."""

Cpus = Annotated[
    float,
    BeforeValidator(_cpu),
    WithJsonSchema({"type": ["number", "string"], "description": CPU_ALLOWED}),
]
"""A number of CPUs, to a thousandth."""

EnvName = Annotated[str, BeforeValidator(_env_name)]

SecretName = Annotated[str, BeforeValidator(_secret_name), WithJsonSchema({"type": "string"})]
"""What a secret is called where the agent looks it up."""


class SecretRef(Spec):
    """Stands for a value that only the agent gets to see, when it starts the job."""

    secret: SecretName
    """The secret's name, such as `wandb-key`; the agent's operator says where it is looked up."""


def _env_value(value: object) -> object:
    """A `Text`, or a `SecretRef`; what was found in a mapping is not repeated, since it may be the secret itself."""
    if isinstance(value, SecretRef):
        return value
    if not isinstance(value, dict):
        return _text(value)
    if set(value) != {"secret"}:
        raise ValueError("found a mapping; allowed: text, or {secret: NAME}")
    return SecretRef(secret=str(_secret_name(value["secret"])))


EnvValue = Annotated[
    str | SecretRef,
    BeforeValidator(_env_value),
    WithJsonSchema(
        {
            "anyOf": [
                _SCALAR,
                {
                    "type": "object",
                    "properties": {"secret": {"type": "string"}},
                    "required": ["secret"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
"""A plain value, or `{secret: NAME}`."""

Env = Annotated[dict[EnvName, EnvValue], BeforeValidator(_mapping)]
"""Environment variables; a value is `Text`, or names a secret."""

S3Url = Annotated[str, BeforeValidator(_s3_url), WithJsonSchema({"type": "string", "pattern": S3_PATTERN})]
"""`s3://bucket` or `s3://bucket/prefix`, without a slash at its end."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hex."""

JobIdText = Annotated[str, BeforeValidator(_job_id), WithJsonSchema({"type": "string"})]
"""A job's id, such as `gpu-training-queue/42`."""

ContainerPath = Annotated[str, BeforeValidator(_container_path), WithJsonSchema({"type": "string"})]
"""An absolute path in the container, without `.` and `..`."""

MAX_LABELS = 64


def _labels(value: dict[str, str]) -> dict[str, str]:
    if len(value) > MAX_LABELS:
        raise ValueError(f"found {len(value)} labels; allowed: at most {MAX_LABELS}")
    for key, text in value.items():
        if not key.isprintable() or not key.strip() or "=" in key:
            raise ValueError(f"found the label {key[:80]!r}; allowed: 1 to 128 characters that can be seen, no '='")
        if not text.isprintable() or len(text) > 1024:
            raise ValueError(
                f"found {text[:80]!r} as the label {key[:80]!r}; allowed: at most 1024 characters that can be seen"
            )
    return value


Labels = Annotated[
    dict[Annotated[str, Field(max_length=128)], Text], BeforeValidator(_mapping), AfterValidator(_labels)
]
"""The user's own marks on a job, or on an agent. None of them becomes a label of a container."""


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"found {value[:80]!r}; allowed: characters that can be seen")
    return value


VisibleText = Annotated[Text, AfterValidator(_printable)]
"""A `Text` without line breaks, control characters, and marks that can't be seen."""


def _moment(value: datetime) -> datetime:
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError(f"found the year {value.year}; allowed: {_FIRST_YEAR} to {_LAST_YEAR}")
    return value


_FIRST_YEAR, _LAST_YEAR = 1970, 9000

Moment = Annotated[AwareDatetime, AfterValidator(_moment)]
"""A time with its zone, such that any zone's clock and any difference of two can be shown."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that every program can count with."""
