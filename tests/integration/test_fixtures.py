"""The fixtures keep their word: a server that restarts on its port and store, an engine that answers, a local image."""

import socket
from collections.abc import Callable

from tests.support import engine
from tests.support.nats_server import NatsServer


def connects(server: NatsServer) -> bool:
    """Whether something listens at the server's port."""
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5):
            return True
    except OSError:
        return False


def test_a_server_of_ones_own_comes_back_on_the_same_port(fresh_nats: Callable[..., NatsServer]) -> None:
    server = fresh_nats()
    url = server.url
    assert connects(server)
    server.stop()
    assert not connects(server)
    server.start()
    assert connects(server)
    server.restart(kill=True)
    assert connects(server)
    assert server.url == url


def test_two_servers_do_not_meet(fresh_nats: Callable[..., NatsServer], nats_url: str) -> None:
    assert len({fresh_nats().url, fresh_nats().url, nats_url}) == 3


def test_the_engine_answers_and_has_the_image(busybox_image: str) -> None:
    image = engine.get(f"/images/{busybox_image}/json")
    assert image["Config"]["Cmd"] == ["sh"]
