"""A request that is cancelled stays cancelled, even where its answer comes at the same moment.

A task that loses its cancellation runs on, and whoever waits for it to end, such as a stopping agent, waits for ever.
"""

import asyncio
import contextlib

from launch.adapters.nats.connection import Connection

TRIES = 600


async def test_no_cancellation_is_lost_to_an_answer(nats_url: str) -> None:
    connection = Connection(nats_url)
    await connection.open(name="test", credentials=None, timeout_s=5)
    loop = asyncio.get_running_loop()
    ran_on = 0
    try:
        # How long an answer takes here, and then cancellations spread closely around that moment.
        before = loop.time()
        await connection.api("INFO")
        answer_s = loop.time() - before
        for attempt in range(TRIES):
            went_on = False

            async def ask() -> None:
                nonlocal went_on
                await connection.api("INFO")
                went_on = True

            task = asyncio.create_task(ask())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(answer_s * 1.5 * attempt / TRIES):
                    await asyncio.shield(task)
            cancelling = task.cancel()
            await asyncio.wait({task})
            ran_on += cancelling and went_on
    finally:
        await connection.close()
    assert ran_on == 0


async def test_a_flush_that_nobody_waits_for_ends_no_connection(nats_url: str) -> None:
    connection = Connection(nats_url)
    await connection.open(name="test", credentials=None, timeout_s=5)
    try:
        flush = asyncio.create_task(connection.settled())
        while not connection.client._pongs:  # noqa: ASYNC110  (its ping is under way)
            await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait({flush})
        assert flush.cancelled()
        await connection.settled()
        await connection.api("INFO")
    finally:
        await connection.close()
