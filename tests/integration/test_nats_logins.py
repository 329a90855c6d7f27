"""Every way to log in, as a role, on a real server; and the committed nats.conf with its users and TLS taken in."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from launch import server_users
from launch.adapters import nats
from launch.adapters.nats import NatsBroker
from launch.core.roles import Role, permissions
from launch.errors import BrokerUnavailable, LaunchError, LoginRefused, NotPermitted
from launch.login import Credentials, Login
from launch.queue import QueueSpec, StaticProvider
from tests.support.jwt import Operator
from tests.support.nats_server import NatsServer
from tests.support.tls import Authority

pytestmark = pytest.mark.nats
ROOT = Path(__file__).resolve().parents[2]
QUEUE = "gpu-training-queue"
"""The one that nats-roles.conf is committed for."""
ROLES = (Role.ADMIN, Role.SCALER, Role.VIEWER, Role.PUBLISHER, Role.OPERATOR, Role.AGENT)
Started = Callable[..., NatsServer]


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> dict[Role, str]:
    """A password for each role, in the environment that servers started here get."""
    made = {role: f"p@ss/{number} word" for number, role in enumerate(ROLES)}
    for role, password in made.items():
        monkeypatch.setenv(f"NATS_{role.upper()}_PASSWORD", f'"{password}"')
    return made


def committed(folder: Path, *, changed: Callable[[str], str] = str) -> str:
    """nats.conf with the lines on users and TLS taken in, on any port, `changed` as its comments say."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "nats-roles.conf", folder)
    plain, marker, secured = (ROOT / "nats.conf").read_text().partition("# To serve other machines")
    taken_in = re.sub(r"(?m)^#(?! \S)", "", secured)
    assert 'include "nats-roles.conf"\ntls {' in taken_in
    text = re.sub(r"(?m)^(http: .*)$", "", plain).replace("port: 4222", "port: -1")
    text = text.replace('"./nats-data"', f'"{folder / "data"}"') + marker + taken_in
    return changed(text)


async def submits_and_no_more(url: str, credentials: Credentials | None) -> None:
    """Holds a publisher to its role; whoever can't hear its answers fails at once."""
    broker = await nats.connect(url, name="test publisher", credentials=credentials)
    await broker.jobs.publish(QUEUE, "train", b"{}")
    assert [spec.queue_name for spec in await broker.queues.list()] == [QUEUE]
    with pytest.raises(NotPermitted):
        await broker.leases.acquire("l", "me", ttl_s=5)
    await broker.close()


async def made_queue(url: str, credentials: Credentials | None) -> NatsBroker:
    admin = await nats.connect(url, name="test admin", credentials=credentials)
    await admin.queues.apply(QueueSpec(queue_name=QUEUE, provider=StaticProvider()))
    return admin


def test_the_committed_roles_are_those_of_the_code() -> None:
    again = f"python -m launch.server_users {QUEUE} > nats-roles.conf"
    assert (ROOT / "nats-roles.conf").read_text() == server_users.with_passwords(QUEUE), f"not current; run: {again}"


async def test_users_passwords_and_tls_of_the_committed_configuration(
    fresh_nats: Started,
    tmp_path: Path,
    passwords: dict[Role, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = Authority(tmp_path)
    for name, path in zip(("CERT", "KEY"), authority.issue("server"), strict=True):
        monkeypatch.setenv(f"NATS_TLS_{name}", str(path))
    server = fresh_nats(config=committed(tmp_path / "nats-0"))

    def login(role: Role, *, password: str | None = None) -> Login:
        return Login(user=role, password=password or passwords[role], ca=authority.certificate)

    await (await made_queue(server.url, login(Role.ADMIN))).close()
    await submits_and_no_more(server.url, login(Role.PUBLISHER))
    for role in ROLES:
        await (await nats.connect(server.url, name="test", credentials=login(role))).close()
    for refused in (login(Role.PUBLISHER, password="wrong"), Login(ca=authority.certificate)):
        with pytest.raises(LoginRefused, match=r"(Authorization Violation|hung up).*NATS_PASSWORD"):
            await nats.connect(server.url, name="test", credentials=refused)
    with pytest.raises(BrokerUnavailable, match=r"certificate"):
        await nats.connect(server.url, name="test", credentials=Login(user=Role.ADMIN, password=passwords[Role.ADMIN]))
    assert [record.message for record in caplog.records if record.name == "asyncio"] == [], "users would see it"


async def test_a_client_certificate_is_a_user(
    fresh_nats: Started, tmp_path: Path, passwords: dict[Role, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    for name, path in zip(("CERT", "KEY"), authority.issue("server"), strict=True):
        monkeypatch.setenv(f"NATS_TLS_{name}", str(path))
    verifying = f'tls {{\n    ca_file: "{authority.certificate}"\n    verify_and_map: true'
    config = committed(tmp_path / "nats-0", changed=lambda text: text.replace("tls {", verifying))
    roles = tmp_path / "nats-0" / "nats-roles.conf"
    roles.write_text(re.sub(r"user: (\w+), password: \S+,", r'user: "CN=\1",', roles.read_text()))
    server = fresh_nats(config=config)

    def login(role: Role, issuer: Authority = authority) -> Login:
        certificate, key = issuer.issue(role)
        return Login(cert=certificate, key=key, ca=authority.certificate, inbox_prefix=f"_INBOX.{role}")

    await (await made_queue(server.url, login(Role.ADMIN))).close()
    await submits_and_no_more(server.url, login(Role.PUBLISHER))
    (tmp_path / "other").mkdir()
    for refused in (login(Role.ADMIN, Authority(tmp_path / "other")), Login(ca=authority.certificate)):
        with pytest.raises(BrokerUnavailable, match="can't connect"):
            await nats.connect(server.url, name="test", credentials=refused)


async def test_a_password_in_the_address_is_a_user_too(fresh_nats: Started, passwords: dict[Role, str]) -> None:
    server = fresh_nats(config=server_users.with_passwords(QUEUE))

    def url(role: Role) -> str:
        return server.url.replace("//", f"//{role}:{quote(passwords[role], safe='')}@")

    await (await made_queue(url(Role.ADMIN), None)).close()
    await submits_and_no_more(url(Role.PUBLISHER), None)
    await submits_and_no_more(server.url, Login(user=Role.PUBLISHER, password=passwords[Role.PUBLISHER]))


async def test_a_creds_file_of_an_operator(fresh_nats: Started, tmp_path: Path) -> None:
    operator = Operator()
    server = fresh_nats(config=operator.config())
    files = {}
    for role in (Role.ADMIN, Role.PUBLISHER):
        files[role] = tmp_path / f"{role}.creds"
        allowed = permissions(role, [QUEUE], inbox="_INBOX.{user}")
        operator.user(files[role], allowed.publish, allowed.subscribe)
    await (await made_queue(server.url, files[Role.ADMIN])).close()
    await submits_and_no_more(server.url, files[Role.PUBLISHER])
    Operator().user(files[Role.ADMIN], (">",), (">",))
    with pytest.raises(LoginRefused, match=r"(Authorization Violation|hung up).*NATS_CREDS"):
        await nats.connect(server.url, name="test", credentials=files[Role.ADMIN])


@pytest.mark.parametrize(
    ("text", "login", "said"),
    [
        ("SUsomething", lambda file: file, "holds no credentials of NATS.*NATS_NKEY"),
        ("-----BEGIN NATS USER JWT-----\na.W10.c\n-----BEGIN USER NKEY SEED-----", lambda file: file, "no credentials"),
        ("SUsomething", lambda file: Login(nkey=file), "holds no nkey seed"),
        ("no PEM", lambda file: Login(cert=file), "TLS files can't be used"),
        (None, lambda file: file, "can't be read: No such file"),
        (None, lambda file: Login(nkey=file), "can't be read: No such file"),
        (None, lambda file: Login(ca=file), "can't be used .*No such file"),
    ],
)
async def test_a_file_that_is_no_login_is_named_and_not_quoted(
    nats_url: str, tmp_path: Path, text: str | None, login: Callable[[Path], Credentials], said: str
) -> None:
    file = tmp_path / "login"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LaunchError, match=said) as error:
        await nats.connect(nats_url, name="test", credentials=login(file))
    assert str(file) in str(error.value)
    assert text is None or text not in str(error.value)
