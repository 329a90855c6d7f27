"""What can go wrong at the server or in the vendor's client, in this project's words: translated once, here."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import nats.errors

from launch.errors import BrokerError, BrokerUnavailable
from launch.logging import Logger

TOLD_AGAIN_S = 60.0
TEXTS_KEPT = 100

_log = Logger(__name__)


class ApiError(BrokerError):
    """JetStream refused a request: `code` is HTTP-like, `err_code` the server's own number for the case."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"NATS: {description}")
        self.code = code
        self.err_code = err_code
        self.description = description

    @property
    def passing(self) -> bool:
        """Whether it may go by itself: the server has no leader at this moment, or is starting."""
        return self.code == 503 and self.err_code not in STREAM_FULL

    @property
    def no_room(self) -> bool:
        """Whether the server, every one of a cluster, or the account has less left than a new stream is to reserve."""
        return self.err_code in NO_ROOM or (self.err_code == NO_PEERS and "storage" in self.description)


class NobodyAnswered(BrokerUnavailable):
    """Nobody listens on that subject: JetStream is off, has no leader yet, or the stream does not exist."""


STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
SEQUENCE_NOT_FOUND = 10043
MESSAGE_DELETE_FAILED = 10057
WRONG_LAST_SEQUENCE = (10071, 10164)
WRONG_LAST_MSG_ID = 10070
BATCH_LOST = (10176, 10210)
"""Not all of a batch has arrived over this connection, or the server has too many under way."""
BATCH_REPEATED = 10201
BATCH_HEADER_REFUSED = 10177
STREAM_FULL = (10023, 10047, 10077)
"""Insufficient resources, and the stream's own limits: nothing was stored."""
NO_ROOM = (10023, 10028, 10047)
NO_PEERS = 10005


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the vendor's errors into this project's, once, here."""
    try:
        yield
    except nats.errors.NoRespondersError as error:
        raise NobodyAnswered(f"{what}: nobody answered; JetStream is off, or has no leader yet") from error
    except (nats.errors.TimeoutError, TimeoutError) as error:
        raise BrokerUnavailable(f"{what}: NATS did not answer in time") from error
    except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
        raise BrokerUnavailable(f"{what}: the connection to NATS is closed") from error
    except nats.errors.MaxPayloadError as error:
        raise BrokerError(f"{what}: larger than the server's max_payload") from error
    except (nats.errors.Error, OSError, RuntimeError) as error:
        # RuntimeError: uvloop's, for a transport that is closed already.
        raise BrokerUnavailable(f"{what}: {error}") from error


class Complaints:
    """What the client complains of by itself: a denied subject shows nowhere else, its caller only gets no answer.

    Each is logged, the same text once a minute: a client that tries to reconnect says the same four times a second.
    """

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def note(self, error: Exception) -> None:
        """Log it, unless that was said just now."""
        text = (str(error) or type(error).__name__).partition("\n")[0]
        now = time.monotonic()
        if now - self._told.get(text, -TOLD_AGAIN_S) < TOLD_AGAIN_S:
            return
        if len(self._told) >= TEXTS_KEPT:
            self._told.clear()
        self._told[text] = now
        _log.warning("the connection to NATS has trouble", error=text)


def shown(url: str) -> str:
    """The address without a password in it."""
    return re.sub(r"//[^@/]*@", "//", url)
