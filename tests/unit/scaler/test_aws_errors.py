"""Every no of EC2, in the shapes that botocore gives it."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from scaler.adapters.aws.errors import Kind, fault_of, refusal
from scaler.ports import ProviderRefused, ProviderUnavailable, ProviderUnsuitable


def answered(code: str, message: str = "", status: int = 400) -> ClientError:
    """As botocore parses EC2's XML."""
    response: dict[str, Any] = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"RequestId": "r", "HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0},
    }
    return ClientError(response, "RunInstances")


ZONE = "We currently do not have sufficient g4dn.xlarge capacity in the Availability Zone you requested (us-east-1a)."
UNSUPPORTED = "Your requested instance type (g4dn.xlarge) is not supported in your requested Availability Zone (x)."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered("InsufficientInstanceCapacity", ZONE, 500), Kind.CAPACITY),
        (answered("SpotMaxPriceTooLow", "Your Spot request price is lower than the minimum"), Kind.CAPACITY),
        (answered("InsufficientFreeAddressesInSubnet", "There are not enough free addresses"), Kind.CAPACITY),
        (answered("Unsupported", UNSUPPORTED), Kind.CAPACITY),
        (answered("Unsupported", "The requested configuration is currently not supported."), Kind.PARAMETERS),
        (answered("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit of 0"), Kind.QUOTA),
        (answered("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded"), Kind.QUOTA),
        (answered("FutureThingLimitExceeded", "x"), Kind.QUOTA),
        (answered("RequestLimitExceeded", "Request limit exceeded.", 503), Kind.THROTTLED),
        (answered("Throttling", "Rate exceeded", 400), Kind.THROTTLED),
        (answered("UnauthorizedOperation", "You are not authorized", 403), Kind.AUTH),
        (answered("AuthFailure", "AWS was not able to validate", 401), Kind.AUTH),
        (answered("ExpiredToken", "The security token is expired"), Kind.AUTH),
        (answered("SomethingForbidden", "x", 403), Kind.AUTH),
        (answered("InvalidAMIID.NotFound", "The image id does not exist"), Kind.PARAMETERS),
        (answered("InvalidSubnetID.NotFound", "The subnet ID does not exist"), Kind.PARAMETERS),
        (answered("InvalidParameterValue", "Value () for parameter x is invalid"), Kind.PARAMETERS),
        (answered("InvalidInstanceID.NotFound", "The instance ID does not exist"), Kind.NOT_FOUND),
        (answered("IdempotentParameterMismatch", "Arguments on this idempotent request"), Kind.MISMATCH),
        (answered("InternalError", "An internal error has occurred", 500), Kind.SERVER),
        (answered("Unavailable", "Service unavailable", 503), Kind.SERVER),
        (answered("502", "Bad Gateway", 502), Kind.SERVER),
        (answered("SomethingNew", "x", 400), Kind.OTHER),
        (ClientError({}, "RunInstances"), Kind.SERVER),
        (EndpointConnectionError(endpoint_url="https://ec2.nowhere", error="refused"), Kind.NETWORK),
        (ConnectTimeoutError(endpoint_url="https://ec2.nowhere"), Kind.NETWORK),
        (ReadTimeoutError(endpoint_url="https://ec2.nowhere"), Kind.NETWORK),
        (HTTPClientError(error="reset"), Kind.NETWORK),
        (aiohttp.ServerDisconnectedError(), Kind.NETWORK),
        (ResponseParserError("Unable to parse response: b'<!doctype html>'"), Kind.SERVER),
        (TimeoutError(), Kind.NETWORK),
        (NoCredentialsError(), Kind.AUTH),
        (ProfileNotFound(profile="x"), Kind.AUTH),
        (ParamValidationError(report="Invalid length"), Kind.PARAMETERS),
    ],
)
def test_each_is_of_its_kind(error: Exception, kind: Kind) -> None:
    assert fault_of(error).kind is kind


def test_words_are_one_line_without_what_only_aws_can_read() -> None:
    fault = fault_of(
        answered(
            "UnauthorizedOperation", "You may not.\nEncoded authorization failure message: AbC-123_x" + "y" * 900, 403
        )
    )
    assert fault.words == "You may not."
    assert fault.encoded.startswith("AbC-123_x")
    assert "AbC" not in str(refusal(fault, "can't launch", "ec2:RunInstances"))
    assert len(fault_of(answered("X", "word " * 500)).words) <= 400


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (answered("VcpuLimitExceeded"), ProviderRefused, "quota"),
        (answered("UnauthorizedOperation", "x", 403), ProviderRefused, "iam:PassRole"),
        (answered("ExpiredToken"), ProviderRefused, "renew"),
        (answered("OptInRequired"), ProviderRefused, "account"),
        (NoCredentialsError(), ProviderRefused, "AWS_ACCESS_KEY_ID"),
        (answered("RequestLimitExceeded", "", 503), ProviderRefused, ""),
        (answered("SomethingNew"), ProviderRefused, ""),
        (answered("InvalidGroup.NotFound"), ProviderUnsuitable, "security_groups"),
        (answered("InvalidKeyPair.NotFound"), ProviderUnsuitable, "key_name"),
        (answered("InvalidParameterValue", "Invalid IAM Instance Profile name"), ProviderUnsuitable, "iam_profile"),
        (answered("VPCIdNotSpecified"), ProviderUnsuitable, "subnets"),
        (answered("InternalError", "", 500), ProviderUnavailable, ""),
        (TimeoutError(), ProviderUnavailable, ""),
    ],
)
def test_each_becomes_what_the_scaler_can_act_on(error: Exception, kind: type[Exception], hint: str) -> None:
    made = refusal(fault_of(error), "can't launch", "ec2:RunInstances")
    assert type(made) is kind
    assert hint in str(made.hint or "")
