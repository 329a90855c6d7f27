"""What every AWS client of this project is made from, read off the event loop.

Region and credentials are found the way the AWS tools do (environment, profile, the machine's role); another endpoint
is named by AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import os

import aioboto3
from aiobotocore.session import AioSession
from botocore.session import Session as PlainSession


def prepared_session(*services: str, region: str | None = None) -> aioboto3.Session | None:
    """A session whose clients of `services` are made in a few milliseconds. None if no region is configured or given.

    Blocks for 0.2 to 2 seconds: what a client is made from is a lot of JSON. May raise the vendor's errors.
    """
    plain = PlainSession()
    region = region or plain.get_config_variable("region") or os.environ.get("AWS_REGION")
    if not region:
        return None
    # Makes clients for nothing but what they leave in the loader's memory, so that the real ones cost the loop a few
    # milliseconds. They are never used, and so need no credentials.
    plain.set_credentials("none", "none")
    for service in services:
        plain.create_client(service, region_name=region)
    core = AioSession()
    core.register_component("data_loader", plain.get_component("data_loader"))
    return aioboto3.Session(botocore_session=core, region_name=region)
