"""A broker in memory, true to `launch.ports.Broker` and to what JetStream does behind it.

    server = FakeServer()
    alice, bob = server.connect("alice"), server.connect("bob")

Owns the connections; what they share is in `broker_server`. All timing is the running loop's, so a loop with virtual
time drives ack waits, delays and expiry. Faults: `broker.disconnect()`, `broker.reconnect()`, `broker.lose_replies(n)`,
`server.stop()`, `server.start()`, `server.redeliver_all(queue)`. `server.publish_raw` is any other NATS client.
"""

from __future__ import annotations

from datetime import datetime

from launch.files import Files
from launch.points import Metrics
from launch.ports import Agents, Cancels, Clock, Documents, Jobs, Leases, Logs, Queues, Records, Work
from launch.scaling import Scaling
from tests.fakes.broker_link import Link
from tests.fakes.broker_queues import FakeCancels, FakeJobs, FakeQueues
from tests.fakes.broker_server import ServerState
from tests.fakes.broker_stores import FakeAgents, FakeDocuments, FakeLeases, FakeLogs, FakeRecords
from tests.fakes.broker_work import FakeWork
from tests.fakes.files import FakeFiles
from tests.fakes.metrics import FakeMetrics
from tests.fakes.scaling import FakeScaling


class FakeBroker:
    """One connection: `launch.ports.Broker`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self.queues: Queues = FakeQueues(server, link)
        self.jobs: Jobs = FakeJobs(server, link)
        self.records: Records = FakeRecords(server, link)
        self.cancels: Cancels = FakeCancels(server, link)
        self.agents: Agents = FakeAgents(server, link)
        self.logs: Logs = FakeLogs(server, link)
        self.metrics: Metrics = FakeMetrics(server.points, link)
        self.work: Work = FakeWork(server, link)
        self.leases: Leases = FakeLeases(server, link)
        self.documents: Documents = FakeDocuments(server, link)
        self.scaling: Scaling = FakeScaling(server.told, server.documents, link)
        self.code: Files = FakeFiles(server.code, link)
        self.artifacts: Files = FakeFiles(server.artifacts, link)
        self._server = server
        self._link = link

    @property
    def ack_wait_s(self) -> float:
        """How long a delivered job may go without progress before it is delivered again."""
        return self._server.ack_wait_s

    @property
    def connected_since(self) -> datetime | None:
        """Since when the connection has stood without a break."""
        return self._link.since

    async def close(self) -> None:
        """Leave; whatever is still asked of this connection raises `BrokerUnavailable`."""
        self._link.close()

    def disconnect(self) -> None:
        """Fault: the connection is lost. Calls raise `BrokerUnavailable`, watches stand still, notices get lost."""
        self._link.down()

    def reconnect(self) -> None:
        """End of that fault."""
        self._link.up()

    def lose_replies(self, count: int) -> None:
        """Fault: the next `count` calls take effect, but raise `BrokerUnavailable`."""
        self._link.lose_replies = count


class FakeServer(ServerState):
    """A NATS server in memory, for any number of connections."""

    def __init__(self, *, clock: Clock | None = None, ack_wait_s: float = 30.0, latency_s: float = 0.0) -> None:
        super().__init__(clock=clock, ack_wait_s=ack_wait_s, latency_s=latency_s)
        self._connections: list[FakeBroker] = []

    def connect(self, name: str = "fake") -> FakeBroker:
        """A new connection; needs a running loop."""
        broker = FakeBroker(self, Link(name, self.clock, latency_s=self.latency_s))
        self._connections.append(broker)
        return broker

    def stop(self) -> None:
        """Fault: the server goes away; every connection is lost."""
        for broker in self._connections:
            broker.disconnect()

    def start(self) -> None:
        """The server is back, with all it had stored; every connection comes back."""
        for broker in self._connections:
            broker.reconnect()
