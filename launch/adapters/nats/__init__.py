"""The broker on NATS JetStream: `launch.ports` spoken to a real server. The only importer of `nats`."""

from __future__ import annotations

from datetime import datetime

from launch import subjects
from launch.adapters.nats import lean as lean  # the first to import the vendor's client
from launch.adapters.nats.connection import Connection
from launch.adapters.nats.documents import NatsDocuments
from launch.adapters.nats.jobs import NatsCancels, NatsJobs
from launch.adapters.nats.logs import NatsLogs
from launch.adapters.nats.metrics import NatsMetrics
from launch.adapters.nats.objects import NatsFiles
from launch.adapters.nats.queues import NatsQueues
from launch.adapters.nats.records import NatsAgents, NatsLeases, NatsRecords
from launch.adapters.nats.scaling import NatsScaling
from launch.adapters.nats.streams import create_missing
from launch.adapters.nats.work import NatsWork
from launch.files import Files
from launch.login import Credentials
from launch.points import Metrics
from launch.ports import Agents, Cancels, Documents, Jobs, Leases, Logs, Queues, Records, Work
from launch.scaling import Scaling

DEFAULT_ACK_WAIT_S = 30.0
CONNECT_TIMEOUT_S = 5.0


class NatsBroker:
    """`launch.ports.Broker` over one connection."""

    def __init__(self, connection: Connection, *, ack_wait_s: float, replicas: int) -> None:
        self._connection = connection
        self._ack_wait_s = ack_wait_s
        self.queues: Queues = NatsQueues(connection, replicas)
        self.jobs: Jobs = NatsJobs(connection)
        self.records: Records = NatsRecords(connection)
        self.cancels: Cancels = NatsCancels(connection)
        self.agents: Agents = NatsAgents(connection)
        self.logs: Logs = NatsLogs(connection)
        self.metrics: Metrics = NatsMetrics(connection)
        self.work: Work = NatsWork(connection, ack_wait_s)
        self.leases: Leases = NatsLeases(connection)
        self.documents: Documents = NatsDocuments(connection)
        self.scaling: Scaling = NatsScaling(connection)
        self.code: Files = NatsFiles(connection, subjects.CODE_STORE)
        self.artifacts: Files = NatsFiles(connection, subjects.ARTIFACTS_STORE)

    @property
    def ack_wait_s(self) -> float:
        return self._ack_wait_s

    @property
    def connected_since(self) -> datetime | None:
        return self._connection.connected_since

    async def close(self) -> None:
        await self._connection.close()


async def connect(
    url: str,
    *,
    name: str,
    credentials: Credentials | None = None,
    ack_wait_s: float = DEFAULT_ACK_WAIT_S,
    replicas: int = 1,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> NatsBroker:
    """Connect to the server(s) at `url` (several separated by commas) as `name`.

    Raises `BrokerUnavailable` if none answers within `timeout_s`, `BrokerUnsuitable` if it is too old or JetStream is
    off, `NotPermitted` if this user may not even ask.
    Makes the buckets and the logs' stream if there are none. `ack_wait_s` is how long a delivered job may go
    without progress; `replicas` how many servers keep each stream that this connection creates.
    """
    connection = Connection(url)
    await connection.open(name=name, credentials=credentials, timeout_s=timeout_s)
    try:
        await create_missing(connection, replicas)
    except BaseException:
        await connection.close()
        raise
    return NatsBroker(connection, ack_wait_s=ack_wait_s, replicas=replicas)
