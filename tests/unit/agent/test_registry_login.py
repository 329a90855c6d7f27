"""What Docker's config.json and its helpers say, read without ever failing or giving a password away."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.registry_login import (
    HUB_KEY,
    Credential,
    header_of,
    parse_basic,
    parse_docker_config,
    parse_helper_answer,
)
from launch.core.registry import HUB, ecr_region, registry_of

SECRET = "pa55:w0rd"
BASIC = base64.b64encode(f"bob:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("python:3.12", HUB),
        ("bob/tool", HUB),
        ("docker.io/library/python", HUB),
        ("ghcr.io/bob/tool:1", "ghcr.io"),
        ("localhost/tool", "localhost"),
        ("registry:5000/tool@sha256:0", "registry:5000"),
    ],
)
def test_the_registry_is_found_as_docker_finds_it(image: str, registry: str) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com", "eu-central-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("123456789012.dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1"),
        ("123456789012.dkr-ecr.us-west-2.on.aws", "us-west-2"),
        ("123456789012.dkr.ecr.eu-central-1.amazonaws.com.evil.io", None),
        ("123456789012.dkr.ecr.eu-central-1.evil.on.aws", None),
        ("12345.dkr.ecr.eu-central-1.amazonaws.com", None),
        ("ghcr.io", None),
    ],
)
def test_only_amazons_own_hosts_get_its_tokens(host: str, region: str | None) -> None:
    assert ecr_region(host) == region


def test_each_form_of_an_entry_is_read() -> None:
    auths = {
        HUB_KEY: {"auth": BASIC},
        "https://ghcr.io/v2/": {"username": "ann", "password": "x"},
        "token.io": {"auth": BASIC, "identitytoken": "t"},
        "kept.elsewhere.io": {},
    }
    logins = parse_docker_config(json.dumps({"auths": auths}))
    assert logins.auths == {
        HUB: Credential("bob", SECRET),
        "ghcr.io": Credential("ann", "x"),
        "token.io": Credential("", token="t"),
    }
    assert logins.warnings == ()


def test_a_registrys_own_helper_comes_before_the_store() -> None:
    logins = parse_docker_config(json.dumps({"credHelpers": {"ghcr.io": "own"}, "credsStore": "all"}))
    assert logins.asked("ghcr.io") == (("own", "ghcr.io"),)
    assert logins.asked("quay.io") == (("all", "quay.io"),)
    assert logins.asked(HUB) == (("all", HUB_KEY),)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("{", "is no JSON (line 1)"),
        ("[]", "is no JSON object"),
        ('{"auths": 1}', "auths is no mapping"),
        ('{"auths": {"x.io": {"auth": "pa55w0rd!"}}}', "auths: the entry of 'x.io' is no user:password in base64"),
        ('{"auths": {"x.io": "pa55w0rd"}}', "auths: the entry of 'x.io' is no mapping"),
        ('{"credHelpers": {"x.io": "../../bin/sh"}}', "credHelpers: the entry of 'x.io' is no helper's name"),
        ('{"credsStore": "a/b"}', "credsStore is no helper's name"),
    ],
)
def test_what_can_not_be_read_is_told_and_left_out(text: str, warning: str) -> None:
    logins = parse_docker_config(text)
    assert logins.warnings == (warning,)
    assert (logins.auths, logins.helpers, logins.store) == ({}, {}, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.text()
    | st.fixed_dictionaries({}, optional=dict.fromkeys(("auths", "credHelpers", "credsStore"), JSON)).map(json.dumps)
)
def test_nothing_in_the_file_is_an_error(text: str) -> None:
    parse_docker_config(text)


def test_a_helper_gives_a_password_or_a_token_or_knows_none() -> None:
    assert parse_helper_answer('{"Username": "bob", "Secret": "x"}') == Credential("bob", "x")
    assert parse_helper_answer('{"Username": "<token>", "Secret": "x"}') == Credential("", token="x")
    assert parse_helper_answer("credentials not found in native keychain\n") is None
    for nonsense in ("pa55w0rd", "[]", '{"Username": 1}'):
        with pytest.raises(ValueError, match=r"^answered ") as caught:
            parse_helper_answer(nonsense)
        assert "pa55w0rd" not in str(caught.value)


def test_a_password_may_have_colons_and_is_never_shown() -> None:
    credential = parse_basic(BASIC)
    assert credential.password == SECRET
    assert SECRET not in repr(credential)


def test_the_engine_gets_what_it_expects() -> None:
    sent = json.loads(base64.urlsafe_b64decode(header_of(Credential("bob", SECRET), HUB)))
    assert sent == {"username": "bob", "password": SECRET, "serveraddress": HUB_KEY}
    assert json.loads(base64.urlsafe_b64decode(header_of(Credential("", token="t"), "x.io")))["identitytoken"] == "t"
