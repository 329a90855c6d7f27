"""An answer to a delivery that its consumer does not take: the job leaves the queue without it."""

from __future__ import annotations

from datetime import datetime, timedelta

import nats.errors
from nats.aio.msg import Msg

from launch.adapters.nats.connection import Connection, parse_time
from launch.adapters.nats.failures import MESSAGE_NOT_FOUND, SEQUENCE_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from launch.errors import BrokerUnavailable
from launch.logging import Logger

_GONE = (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND, SEQUENCE_NOT_FOUND)
_SAME_TIME = timedelta(milliseconds=1)
"""A reply token's time goes through a float: microseconds may differ."""

_log = Logger(__name__)


async def take_out(connection: Connection, reply: str) -> bool:
    """Make sure that the message of this delivery is not in its stream any more; False if nobody can tell now.

    The stream's leader is asked: another server may be behind, and say that there is none. Raises `ApiError`.
    """
    try:
        delivery = Msg(connection.client, reply=reply).metadata
    except (nats.errors.Error, ValueError):
        _log.warning("an answer to nothing that was ever delivered", reply=reply[:200])
        return True
    stream, seq = delivery.stream, delivery.sequence.stream
    log = _log.bind(stream=stream, seq=seq, consumer=delivery.consumer)
    try:
        stored_at = await _stored_at(connection, stream, seq)
        if stored_at is None or abs(stored_at - delivery.timestamp) > _SAME_TIME:
            log.info("nothing to answer: the message is gone")
            return True
        await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except BrokerUnavailable:
        return False
    log.warning("taken out of the queue: its consumer does not take the answer")
    return True


async def _stored_at(connection: Connection, stream: str, seq: int) -> datetime | None:
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", {"seq": seq})
    except ApiError as error:
        if error.err_code in _GONE:
            return None
        raise
    return parse_time(answer["message"]["time"])
