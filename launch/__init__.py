"""nats-launch: containerised jobs through NATS JetStream.

    import launch

    async with launch.connect() as client:
        job = await client.submit("gpu-training-queue", launch.JobSpec(image="python:3.12", command=["python", "-V"]))
        async for line in job.logs():
            print(line.text)
        record = await job.wait()

The names below are the public API; each is imported when first used, so that `import launch` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch import run as run
    from launch.bulk import BulkInterrupted as BulkInterrupted
    from launch.bulk import JobIds as JobIds
    from launch.client import Client as Client
    from launch.client import connect as connect
    from launch.code import Shipped as Shipped
    from launch.core.capacity import Amount as Amount
    from launch.core.explain import Why as Why
    from launch.core.states import Reason as Reason
    from launch.core.states import State as State
    from launch.errors import BrokerUnavailable as BrokerUnavailable
    from launch.errors import BrokerUnsuitable as BrokerUnsuitable
    from launch.errors import Conflict as Conflict
    from launch.errors import LaunchError as LaunchError
    from launch.errors import NotFound as NotFound
    from launch.errors import Problem as Problem
    from launch.errors import QueueFull as QueueFull
    from launch.errors import SpecError as SpecError
    from launch.errors import StoreError as StoreError
    from launch.errors import StoreUnavailable as StoreUnavailable
    from launch.fetch import Fetched as Fetched
    from launch.fields import SecretRef as SecretRef
    from launch.files import ArtifactFile as ArtifactFile
    from launch.files import Manifest as Manifest
    from launch.handle import Job as Job
    from launch.job import CodeRef as CodeRef
    from launch.job import Input as Input
    from launch.job import JobSpec as JobSpec
    from launch.job import Mount as Mount
    from launch.job import Resources as Resources
    from launch.lines import LogLine as LogLine
    from launch.points import Point as Point
    from launch.points import PointSource as PointSource
    from launch.ports import QueueStatus as QueueStatus
    from launch.presence import AgentPresence as AgentPresence
    from launch.queue import AwsProvider as AwsProvider
    from launch.queue import JobDefaults as JobDefaults
    from launch.queue import LocalProvider as LocalProvider
    from launch.queue import QueueSpec as QueueSpec
    from launch.queue import StaticProvider as StaticProvider
    from launch.record import JobRecord as JobRecord
    from launch.subjects import JobId as JobId
    from launch.subjects import Priority as Priority

_HOMES = {
    "BulkInterrupted": "launch.bulk",
    "JobIds": "launch.bulk",
    "Client": "launch.client",
    "Job": "launch.handle",
    "LogLine": "launch.lines",
    "connect": "launch.client",
    "Shipped": "launch.code",
    "StoreError": "launch.errors",
    "StoreUnavailable": "launch.errors",
    "Fetched": "launch.fetch",
    "SecretRef": "launch.fields",
    "ArtifactFile": "launch.files",
    "Manifest": "launch.files",
    "CodeRef": "launch.job",
    "Input": "launch.job",
    "Mount": "launch.job",
    "Amount": "launch.core.capacity",
    "Why": "launch.core.explain",
    "Reason": "launch.core.states",
    "State": "launch.core.states",
    "BrokerUnavailable": "launch.errors",
    "BrokerUnsuitable": "launch.errors",
    "Conflict": "launch.errors",
    "LaunchError": "launch.errors",
    "NotFound": "launch.errors",
    "Problem": "launch.errors",
    "QueueFull": "launch.errors",
    "SpecError": "launch.errors",
    "Point": "launch.points",
    "PointSource": "launch.points",
    "QueueStatus": "launch.ports",
    "JobSpec": "launch.job",
    "Resources": "launch.job",
    "AgentPresence": "launch.presence",
    "AwsProvider": "launch.queue",
    "JobDefaults": "launch.queue",
    "LocalProvider": "launch.queue",
    "QueueSpec": "launch.queue",
    "StaticProvider": "launch.queue",
    "JobRecord": "launch.record",
    "JobId": "launch.subjects",
    "Priority": "launch.subjects",
}

__all__ = sorted([*_HOMES, "run"])  # noqa: PLE0605  (computed from the one table above)


def __getattr__(name: str) -> Any:
    if name == "run":  # works where only this package is, without what it depends on
        return importlib.import_module("launch.run")
    if name not in _HOMES:
        raise AttributeError(f"module 'launch' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
