"""What the engine says when it refuses, and whose doing that is: one table, read from the top, first match wins.

The engine's HTTP status does not tell: missing credentials, a full disk and a missing GPU runtime are all 500. Its
words do, and they have been stable for years. Phrases are compared in lower case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from launch.core.states import Reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row. An empty `steps`, `statuses` or `phrases` matches anything; one phrase of several is enough."""

    reason: Reason
    advice: str
    steps: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    phrases: tuple[str, ...] = ()
    network: bool = False
    """Whether it is the network's doing, which may be over in a moment."""
    full: bool = False
    """Whether a disk has no room."""


PULL, CREATE, START = ("pull",), ("create",), ("start",)

REFUSALS: Final = (
    # -- the machine's own troubles, whatever was asked for
    Refusal(
        Reason.IMAGE_PULL_FAILED,
        "the worker's disk is full; prune images or give it a larger disk",
        steps=PULL,
        phrases=("no space left on device", "disk quota exceeded"),
        full=True,
    ),
    Refusal(
        Reason.ENGINE_ERROR,
        "the worker's disk is full; prune images or give it a larger disk",
        phrases=("no space left on device", "disk quota exceeded"),
    ),
    # -- pull
    Refusal(
        Reason.INVALID_SPEC,
        "the image reference is not well-formed",
        steps=PULL,
        phrases=("invalid reference format", "invalid tag format", "repository name must be lowercase"),
    ),
    Refusal(
        Reason.IMAGE_PULL_FAILED,
        "the registry limits how often this worker may pull; log it in, or use a mirror",
        steps=PULL,
        phrases=("toomanyrequests", "too many requests", "rate limit"),
    ),
    Refusal(
        Reason.IMAGE_PULL_FAILED,
        "the image was not built for this worker's platform; build it for that too, or run it elsewhere",
        steps=PULL,
        phrases=("no matching manifest", "does not match the specified platform", "cannot be used on this platform"),
    ),
    # Docker Hub says the same of a name that does not exist and of a private one.
    Refusal(
        Reason.IMAGE_NOT_FOUND,
        "there is no such image, or it is private; check the name, or log the worker in",
        steps=PULL,
        phrases=("repository does not exist or may require",),
    ),
    Refusal(
        Reason.IMAGE_UNAUTHORIZED,
        "the registry wants other credentials than this worker has; log it in to the registry",
        steps=PULL,
        phrases=(
            "no basic auth credentials",
            "unauthorized",
            "authentication required",
            "denied: ",
            "access denied",
            "access forbidden",
            "403 forbidden",
        ),
    ),
    Refusal(
        Reason.IMAGE_PULL_FAILED,
        "the worker does not trust the registry's certificate; give its engine the registry's CA",
        steps=PULL,
        phrases=("x509: ", "server gave http response to https client"),
    ),
    Refusal(
        Reason.IMAGE_PULL_FAILED,
        "the registry could not be reached; check the image's host name, the network and the proxy",
        steps=PULL,
        phrases=(
            "no such host",
            "connection refused",
            "connection reset",
            "broken pipe",
            "i/o timeout",
            "eof",
            "timeout exceeded",
            "deadline exceeded",
            "handshake timeout",
            "no route to host",
            "network is unreachable",
            "server misbehaving",
            "temporary failure",
            "received unexpected http status: 5",
            "bad gateway",
            "service unavailable",
            "tls: ",
        ),
        network=True,
    ),
    Refusal(
        Reason.IMAGE_NOT_FOUND,
        "there is no such image; check its name and tag",
        steps=PULL,
        phrases=("manifest unknown", "manifest for", "name unknown", "not found: "),
    ),
    Refusal(Reason.IMAGE_NOT_FOUND, "there is no such image; check its name and tag", steps=PULL, statuses=(404,)),
    Refusal(Reason.INVALID_SPEC, "the image reference is not well-formed", steps=PULL, statuses=(400,)),
    Refusal(Reason.IMAGE_PULL_FAILED, "the image could not be fetched", steps=PULL),
    # -- create
    Refusal(
        Reason.COMMAND_NOT_FOUND,
        "neither the job nor its image names a command",
        steps=CREATE,
        phrases=("no command specified",),
    ),
    Refusal(
        Reason.IMAGE_PULL_FAILED,
        "the image was removed from this worker before the job could use it",
        steps=CREATE,
        phrases=("no such image",),
    ),
    Refusal(
        Reason.UNSCHEDULABLE,
        "the job asks for more CPUs than this worker has",
        steps=CREATE,
        phrases=("range of cpus is from",),
    ),
    Refusal(
        Reason.ENGINE_ERROR,
        "this worker's engine lacks the container runtime that it is set up for",
        steps=CREATE,
        phrases=("unknown runtime",),
    ),
    Refusal(
        Reason.ENGINE_ERROR,
        "this worker lacks what its agent.yaml names; make it there, or take it out of the file",
        steps=(*CREATE, *START),
        phrases=("bind source path does not exist", "error gathering device information"),
    ),
    Refusal(
        Reason.INVALID_SPEC,
        "the engine can't make such a container",
        steps=CREATE,
        phrases=("is not a directory", "invalid mount", "invalid volume"),
    ),
    Refusal(Reason.INVALID_SPEC, "the engine can't make such a container", steps=CREATE, statuses=(400, 422)),
    # -- start
    Refusal(
        Reason.ENGINE_ERROR,
        "this worker's engine can't hand out GPUs; install the NVIDIA container toolkit there",
        steps=START,
        phrases=("could not select device driver", "nvidia-container-cli", "nvidia-container-runtime"),
    ),
    Refusal(
        Reason.INVALID_SPEC,
        "a mount can't be made",
        steps=START,
        phrases=("error mounting", "invalid mount"),
    ),
    Refusal(
        Reason.INVALID_SPEC,
        "the image has no such user or group",
        steps=START,
        phrases=("unable to find user", "unable to find group", "no matching entries in passwd"),
    ),
    Refusal(
        Reason.INVALID_SPEC,
        "the working directory can't be used",
        steps=START,
        phrases=("chdir to cwd",),
    ),
    Refusal(
        Reason.COMMAND_NOT_FOUND,
        "the command could not be executed; check command, entrypoint and image",
        steps=START,
        phrases=("executable file not found", "exec: ", "exec format error"),
    ),
)
