"""What EC2's refusals mean: out of capacity, over a quota, not allowed, asked wrongly, too fast, or not answered.

Decided once, here. Only what EC2 is truly out of counts as missing capacity: who may not launch, or not so many, must
be told so and not be led from zone to zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  (botocore's, not Python's)
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError

from launch.errors import LaunchError
from scaler.ports import ProviderRefused, ProviderUnavailable, ProviderUnsuitable

QUOTA_RETRY_S = 60.0
AUTH_RETRY_S = 60.0
THROTTLE_RETRY_S = 5.0
MAX_WORDS = 400


class Kind(StrEnum):
    """What kind of no it is."""

    CAPACITY = "capacity"
    """EC2 has none left of this type, there, in this market."""
    QUOTA = "quota"
    """The account may not have so many."""
    AUTH = "auth"
    """Whoever asks may not, or can't show who it is."""
    PARAMETERS = "parameters"
    """What was asked for can't be."""
    THROTTLED = "throttled"
    SERVER = "server"
    """EC2 failed; it may have done what was asked."""
    NETWORK = "network"
    """No answer; it may have done what was asked."""
    NOT_FOUND = "not found"
    """No such instance, or not visible yet."""
    MISMATCH = "mismatch"
    """The token was used before, with another request."""
    OTHER = "other"
    """A no that nobody foresaw; nothing was done."""


RETRIED = frozenset({Kind.THROTTLED, Kind.SERVER, Kind.NETWORK})
"""What the same call may be sent again for: a launch carries a token."""

_CODES = {
    Kind.CAPACITY: (
        "InsufficientInstanceCapacity InsufficientHostCapacity InsufficientReservedInstanceCapacity "
        "InsufficientCapacity InsufficientCapacityOnHost InsufficientVolumeCapacity InsufficientAddressCapacity "
        "InsufficientFreeAddressesInSubnet SpotMaxPriceTooLow UnfulfillableCapacity CapacityNotAvailable"
    ),
    Kind.QUOTA: (
        "VcpuLimitExceeded InstanceLimitExceeded MaxSpotInstanceCountExceeded VolumeLimitExceeded "
        "MaxIOPSLimitExceeded ResourceCountExceeded NetworkInterfaceLimitExceeded PrivateIpAddressLimitExceeded "
        "SnapshotCreationPerVolumeRateExceeded ResourceLimitExceeded"
    ),
    Kind.AUTH: (
        "UnauthorizedOperation AuthFailure AccessDenied AccessDeniedException ExpiredToken ExpiredTokenException "
        "RequestExpired InvalidClientTokenId SignatureDoesNotMatch InvalidSignatureException "
        "UnrecognizedClientException IncompleteSignature MissingAuthenticationToken OptInRequired Blocked "
        "PendingVerification NotAuthorized InvalidAccessKeyId"
    ),
    Kind.THROTTLED: (
        "RequestLimitExceeded Throttling ThrottlingException ThrottledException TooManyRequestsException "
        "EC2ThrottledException BandwidthLimitExceeded RequestThrottled RequestThrottledException"
    ),
    Kind.SERVER: "InternalError InternalFailure Unavailable ServiceUnavailable ServerInternal RequestTimeout",
    Kind.NOT_FOUND: "InvalidInstanceID.NotFound",
    Kind.MISMATCH: "IdempotentParameterMismatch IdempotentInstanceTerminated",
    Kind.PARAMETERS: (
        "MissingParameter UnknownParameter ValidationError ParameterNotFound UnsupportedOperation VPCIdNotSpecified"
    ),
}
_KIND_OF = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_AUTH_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
VENDOR_ERRORS = (ClientError, BotoCoreError, ResponseParserError, aiohttp.ClientError, TimeoutError, OSError)
"""What a call of the vendor's may raise."""

_ENCODED = re.compile(r"\s*Encoded authorization failure message: *(\S+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One refusal: its kind, AWS's word for it, and AWS's sentence."""

    kind: Kind
    code: str
    words: str
    encoded: str = ""
    """What only AWS can decode: why exactly somebody may not."""

    def __str__(self) -> str:
        return f"{self.code}: {self.words}" if self.words else self.code


def fault_of(error: BaseException) -> Fault:
    """What one of `VENDOR_ERRORS` means."""
    if isinstance(error, ClientError):
        return _answered(error)
    words = _clean(str(error)) or type(error).__name__
    if isinstance(error, _AUTH_ERRORS):
        return Fault(Kind.AUTH, type(error).__name__, words)
    if isinstance(error, ParamValidationError):
        return Fault(Kind.PARAMETERS, "ParamValidation", words)
    if isinstance(error, (ConnectionError, HTTPClientError, aiohttp.ClientError, TimeoutError, OSError)):
        return Fault(Kind.NETWORK, "no answer", words)
    if isinstance(error, ResponseParserError):
        # A proxy's page, such as that of its own failure.
        return Fault(Kind.SERVER, "no answer of AWS", words)
    return Fault(Kind.OTHER, type(error).__name__, words)


def _answered(error: ClientError) -> Fault:
    said = error.response.get("Error", {})
    code = str(said.get("Code") or "unknown")
    text = str(said.get("Message") or "")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    encoded = _ENCODED.search(text)
    words = _clean(_ENCODED.sub("", text))
    return Fault(_kind(code, words, status), code, words, encoded[1] if encoded else "")


def _kind(code: str, words: str, status: int) -> Kind:
    if code in _KIND_OF:
        return _KIND_OF[code]
    if code == "Unsupported":
        # Said of a type that a zone does not have, which the next zone may, and of what no zone has.
        return Kind.CAPACITY if "availability zone" in words.lower() else Kind.PARAMETERS
    if code.startswith("Invalid"):
        return Kind.PARAMETERS
    if code.endswith("LimitExceeded"):
        return Kind.QUOTA
    if status >= 500 or status == 0:
        return Kind.SERVER
    return Kind.AUTH if status in (401, 403) else Kind.OTHER


def refusal(fault: Fault, what: str, action: str) -> LaunchError:
    """The project's error for it. `what` was tried, for people; `action` is AWS's name for the call.

    Missing capacity has no error, but where instances of a certain place were not what was asked for.
    """
    message = f"{what}: {fault}"
    match fault.kind:
        case Kind.QUOTA:
            hint = "raise the quota (Service Quotas, Amazon EC2), or lower max_instances"
            return ProviderRefused(message, hint=hint, retry_after_s=QUOTA_RETRY_S)
        case Kind.AUTH:
            return ProviderRefused(message, hint=_auth_hint(fault, action), retry_after_s=AUTH_RETRY_S)
        case Kind.THROTTLED:
            return ProviderRefused(message, retry_after_s=THROTTLE_RETRY_S)
        case Kind.PARAMETERS:
            return ProviderUnsuitable(message, hint=_parameter_hint(fault))
        case Kind.SERVER | Kind.NETWORK:
            return ProviderUnavailable(message)
        case _:
            return ProviderRefused(message)


_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRetrievalError")


def _auth_hint(fault: Fault, action: str) -> str:
    if fault.code in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
        needs = f"allow the scaler's role {action}"
        if action == "ec2:RunInstances":
            needs += ", ec2:CreateTags, and iam:PassRole if there is an iam_profile"
        return f"{needs}; the log has the encoded message that AWS can decode" if fault.encoded else needs
    if fault.code in _EXPIRED:
        return "renew the scaler's AWS credentials, and check its clock"
    if fault.code in ("OptInRequired", "PendingVerification", "Blocked"):
        return "the account is not ready for this; see its AWS console"
    return "give the scaler valid AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


_PARAMETER_HINTS = (
    ("InvalidAMIID", "set provider.ami to an image of this region, or leave it out"),
    ("InvalidSubnet", "set provider.subnets to subnets of this region"),
    ("InvalidGroup", "set provider.security_groups to groups of the subnets' network"),
    ("InvalidSecurityGroup", "set provider.security_groups to groups of the subnets' network"),
    ("InvalidKeyPair", "set provider.key_name to a key pair of this region"),
    ("InvalidInstanceType", "set provider.instance_type to a type of this region"),
    ("InvalidBlockDeviceMapping", "see provider.volume_size and provider.volume_type"),
    ("VPCIdNotSpecified", "set provider.subnets: the account has no default network"),
    ("Unsupported", "choose another provider.instance_type"),
)


def _parameter_hint(fault: Fault) -> str:
    if "iaminstanceprofile" in fault.words.lower().replace(" ", ""):
        return "set provider.iam_profile to an instance profile that exists, by name or ARN"
    return next((hint for start, hint in _PARAMETER_HINTS if fault.code.startswith(start)), "see the queue's provider")


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()[:MAX_WORDS]
