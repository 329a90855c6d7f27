"""What a million jobs cost: to submit, and whoever waits for one job more while they lie there."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from itertools import cycle, islice

import nats
from nats.aio.client import Client as NatsClient

from bench.answer import Answer, Figure, quantile
from bench.parts import broker, nats_server
from launch.adapters.nats import NatsBroker
from launch.bulk import BATCH_JOBS
from launch.client import Client
from launch.job import JobSpec
from launch.ports import Delivery
from launch.queue import QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.subjects import Priority, WorkConsumer, job_subject

PART = 50_000
"""So many jobs are submitted one way, then as many the other."""
ANSWER_S = 30.0
TYPE = "train"


def specs() -> list[JobSpec]:
    """Small jobs that differ."""
    words = ("python", "train.py", "--seed")
    resources = {"cpu": 1, "memory": "1Gi"}
    return [
        JobSpec.model_validate(
            {"job_type": TYPE, "image": "example/train:1", "command": [*words, str(seed)], "resources": resources}
        )
        for seed in range(BATCH_JOBS)
    ]


def bodies(of: list[JobSpec]) -> list[bytes]:
    """The same as they are published."""
    return [spec.model_dump_json(exclude_unset=True).encode() for spec in of]


async def submit(one_by_one: int, many: int) -> Answer:
    """Jobs a second through the client and by bare nats-py with the same payloads, in turns."""
    ours, raw = specs(), bodies(specs())
    single: dict[str, list[float]] = {"client": [], "raw": []}
    bulk: dict[str, list[float]] = {"client": [], "raw": []}
    with nats_server() as url:
        async with broker(url) as link:
            client = Client(link)
            bare = await nats.connect(url)
            stream = bare.jetstream()
            for queue in ("client", "raw"):
                await client.apply_queue(QueueSpec(queue_name=queue, provider=StaticProvider()))
            for spec, body in islice(cycle(zip(ours, raw, strict=True)), one_by_one):
                since = time.perf_counter()
                await client.submit("client", spec)
                between = time.perf_counter()
                await stream.publish(job_subject("raw", TYPE), body, timeout=ANSWER_S)
                single["client"].append(1000 * (between - since))
                single["raw"].append(1000 * (time.perf_counter() - between))
            parts = max(1, many // PART)
            for _ in range(parts):
                since = time.perf_counter()
                await client.submit_many("client", islice(cycle(ours), many // parts))
                between = time.perf_counter()
                await raw_batches(bare, "raw", raw, many // parts)
                bulk["client"].append(many // parts / (between - since))
                bulk["raw"].append(many // parts / (time.perf_counter() - between))
            depths = [(await link.jobs.depth(queue)).messages for queue in ("client", "raw")]
            await bare.close()
    assert depths == [one_by_one + parts * (many // parts)] * 2, depths
    name = "nats-py, batches of 1,000"
    rate, floor = (1 / (sum(1 / value for value in bulk[side]) / parts) for side in ("client", "raw"))
    p50 = {side: 1 / quantile(values, 0.5) * 1000 for side, values in single.items()}
    return Answer(
        f"one job, and {many:,} jobs by submit_many",
        [
            Figure("one after the other", p50["client"], "jobs/s", 0.8, one_by_one, p50["raw"], "nats-py", best="high"),
            Figure(f"{many:,} at once", rate, "jobs/s", 0.8, parts, floor, name, best="high"),
            Figure(f"{many:,} at once, rate", rate, "jobs/s", 20e3, parts, target_of="value", best="high"),
        ],
        {"submit_ms": single["client"], "raw_ms": single["raw"], "bulk_rate": bulk["client"], "raw_rate": bulk["raw"]},
    )


async def raw_batches(bare: NatsClient, queue: str, payloads: list[bytes], count: int) -> None:
    """The quickest that nats-py's own calls do: batches that are stored whole, each with one answer."""
    subject = job_subject(queue, TYPE)
    for start in range(0, count, BATCH_JOBS):
        batch = secrets.token_hex(8)
        size = min(BATCH_JOBS, count - start)
        for number in range(1, size):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            await bare.publish(subject, payloads[number - 1], headers=headers)
        headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(size), "Nats-Batch-Commit": "1"}
        answer = await bare.request(subject, payloads[size - 1], timeout=ANSWER_S, headers=headers)
        assert json.loads(answer.data).get("count") == size, answer.data


async def depth(queued: int, jobs: int) -> Answer:
    """Milliseconds until a job is an agent's, with `queued` jobs in line and with none, on one server in turns."""
    took: dict[str, list[float]] = {"empty": [], "full": []}
    pulled: dict[str, list[float]] = {"empty": [], "full": []}
    with nats_server() as url:
        async with broker(url) as link, broker(url) as publisher:
            client = Client(publisher)
            for queue in took:
                await client.apply_queue(QueueSpec(queue_name=queue, provider=StaticProvider()))
            await client.submit_many("full", islice(cycle(specs()), queued))
            types = {queue: link.work.consumers(queue, (TYPE, "probe")) for queue in took}
            for queue in took:
                await anext(types[queue])
            for number in range(jobs + 10):
                for queue in ("empty", "full"):
                    waited, taken = await _dispatched(link, publisher, queue), await _taken(link, publisher, queue)
                    if number >= 10:
                        took[queue].append(waited)
                        pulled[queue].append(taken)
            for queue in took:
                await types[queue].aclose()
    figures = []
    for name, of in (("publish to claimed, a waiting agent", took), ("pull from the line, claim and ack", pulled)):
        for share in (0.5, 0.99):
            value, floor = quantile(of["full"], share), quantile(of["empty"], share)
            # A single slow answer of some hundred is chance on a busy machine: the tail fails nothing.
            gross = None if share == 0.5 else 100.0
            figures.append(
                Figure(f"{name}, p{share * 100:.0f}", value, "ms", 1.2, jobs, floor, "none queued", gross=gross)
            )
    samples = {f"{what}_{queue}_ms": of[queue] for what, of in (("wait", took), ("pull", pulled)) for queue in took}
    return Answer(f"dispatch with {queued:,} jobs queued, beside none", figures, samples)


async def _dispatched(link: NatsBroker, publisher: NatsBroker, queue: str) -> float:
    """From a publish to the claim of the job, by an agent that waits for its type; the line is of another type."""
    probe = WorkConsumer("probe", Priority.MEDIUM)
    waiting = asyncio.create_task(link.work.pull_wait(queue, [probe], rank=0, wait_s=ANSWER_S))
    while all(s.waiting == 0 for s in (await publisher.queues.status(queue)).consumers if s.consumer == probe):
        pass
    since = time.perf_counter()
    await publisher.jobs.publish(queue, "probe", b'{"image": "i"}')
    [delivery] = await waiting
    await _claimed(link, delivery)
    took_ms = 1000 * (time.perf_counter() - since)
    await link.work.ack(delivery.reply)
    return took_ms


async def _taken(link: NatsBroker, publisher: NatsBroker, queue: str) -> float:
    """Take the first of the line, as an agent does that has just become free, to the end of it."""
    line = WorkConsumer(TYPE, Priority.MEDIUM)
    await publisher.jobs.publish(queue, TYPE, b'{"image": "i"}')
    while all(s.pending == 0 for s in (await publisher.queues.status(queue)).consumers if s.consumer == line):
        pass
    since = time.perf_counter()
    [delivery] = await link.work.pull_now(queue, line, 1)
    await _claimed(link, delivery)
    await link.work.ack(delivery.reply)
    return 1000 * (time.perf_counter() - since)


async def _claimed(link: NatsBroker, delivery: Delivery) -> None:
    message = delivery.message
    record = JobRecord(
        queue=message.job.queue,
        seq=message.job.seq,
        job_type=message.consumer.job_type,
        submitted_at=message.published_at,
        updated_at=message.published_at,
    )
    await link.records.create(record)
