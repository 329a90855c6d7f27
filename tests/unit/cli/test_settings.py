"""Where NATS is looked for, in which order, and what counts as named by the user."""

import json
from pathlib import Path

import pytest

from launch.errors import LaunchError
from launch.settings import DEFAULT_URL, Endpoint, data_dir, find_server


def write_context(home: Path, name: str, **content: str) -> None:
    folder = home / ".config" / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


def find(home: Path, flag: str | None = None, *, embedded: str | None = None, **env: str) -> Endpoint:
    return find_server(flag, {"HOME": str(home), **env}, embedded_url=embedded)


def test_the_order(tmp_path: Path) -> None:
    assert find(tmp_path).url == DEFAULT_URL
    assert not find(tmp_path).named
    embedded = find(tmp_path, embedded="nats://127.0.0.1:1")
    assert (embedded.url, embedded.named) == ("nats://127.0.0.1:1", False)
    write_context(tmp_path, "here", url="nats://context:1")
    (tmp_path / ".config/nats/context.txt").write_text("here\n")
    context = find(tmp_path, embedded="nats://127.0.0.1:1")
    assert (context.url, context.named) == ("nats://context:1", True)
    assert find(tmp_path, NATS_URL="nats://env:1").url == "nats://env:1"
    assert find(tmp_path, "flag:1", NATS_URL="nats://env:1").url == "nats://flag:1"


def test_lists_and_bare_hosts(tmp_path: Path) -> None:
    assert find(tmp_path, "a:1, tls://b:2,c").url == "nats://a:1,tls://b:2,nats://c"


def test_a_context_by_name_with_login_and_credentials(tmp_path: Path) -> None:
    creds = tmp_path / "my.creds"
    creds.touch()
    write_context(tmp_path, "one", url="nats://a:1,nats://b:2", user="me", password="p@ss")
    write_context(tmp_path, "two", url="nats://a:1", token="t", creds=str(creds))
    assert find(tmp_path, NATS_CONTEXT="one").url == "nats://me:p%40ss@a:1,nats://me:p%40ss@b:2"
    two = find(tmp_path, NATS_CONTEXT="two")
    assert (two.url, two.credentials) == ("nats://t@a:1", creds)


def test_what_can_not_be_used_is_said(tmp_path: Path) -> None:
    write_context(tmp_path, "tls", url="nats://a:1", cert="/c.pem")
    write_context(tmp_path, "lost", url="nats://a:1", creds="/nowhere.creds")
    (tmp_path / ".config/nats/context/bad.json").write_text("{")
    for name, said in (
        ("tls", "/c.pem"),
        ("lost", "/nowhere.creds"),
        ("bad", "not JSON"),
        ("none", "no nats context"),
    ):
        with pytest.raises(LaunchError, match=said):
            find(tmp_path, NATS_CONTEXT=name)
    with pytest.raises(LaunchError, match="does not exist"):
        find(tmp_path, NATS_CREDS="/nowhere.creds")


def test_the_data_directory() -> None:
    assert data_dir({"LAUNCH_DATA_DIR": "/x", "XDG_DATA_HOME": "/y", "HOME": "/h"}) == Path("/x")
    assert data_dir({"XDG_DATA_HOME": "/y", "HOME": "/h"}) == Path("/y/nats-launch")
    assert data_dir({"XDG_DATA_HOME": "relative", "HOME": "/h"}) == Path("/h/.local/share/nats-launch")
