"""Which plain values are taken for secrets, and, as important, which are not."""

import hashlib
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.suspects import looks_secret, suspects
from launch.fields import SecretRef

HEX40 = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MY_API_KEY", "your_secret_key"),
        ("DB_PASSWORD", "hunter2"),
        ("dbPassword", "hunter2"),
        ("db.password", "hunter2"),
        ("PASSWORD_2", "hunter2"),
        ("CLIENT_SECRET", "s3cr3t"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("AWS_ACCESS_KEY_ID", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("WANDB_API_KEY", HEX40),
        ("WANDB_LOGIN", HEX40),
        ("X", "ghp_" + "a1B2" * 9),
        ("X", "github_pat_" + "11ABCDEFG0" * 3),
        ("X", "sk-" + "proj-abcdefghij0123456789"),
        ("X", "hf_" + "AbCdEfGhIj" * 4),
        ("X", "glpat-" + "abcdefghij0123456789"),
        ("X", "xoxb-" + "123456789012-abcdef"),
        ("X", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
        ("CONFIG", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"),
        ("KEY_PEM", '{"key": "-----BEGIN PRIVATE KEY-----\\nMIIE"}'),
        ("DATABASE_URL", "postgres://app:hunter2@db.internal:5432/app"),
        ("REDIS_URL", "redis://:hunter2@cache:6379/0"),
        ("HF_TOKEN", "A9f8b7C6d5E4f3a2B1c0"),
        ("DEPLOY_KEY", str(uuid.UUID(int=0x550E8400E29B41D4A716446655440000))),
        ("SENTRY_TOKEN", f"  {HEX40}\n"),
    ],
)
def test_taken_for_a_secret(name: str, value: str) -> None:
    assert looks_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "/usr/bin:/bin"),
        ("API_KEY_FILE", "/run/secrets/key"),
        ("API_KEY", "/run/secrets/key"),
        ("SSH_KEY", "~/.ssh/id_ed25519"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/gcp/key.json"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "./key.json"),
        ("MAX_TOKENS", "4096"),
        ("TOKEN", "4096"),
        ("PASSWORD", "12345678"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TOKENIZER", "bert-base-uncased"),
        ("PAD_TOKEN", "<|endoftext|>"),
        ("MASK_TOKEN", "[MASK]"),
        ("SORT_KEY", "created_at"),
        ("PARTITION_KEY", "customer-region-2024"),
        ("KEYBOARD", "us"),
        ("MONKEY", "0123456789abcdef0123456789abcdef"),
        ("COMPASS", "0123456789abcdef0123456789abcdef"),
        ("SECRET_NAME", "wandb-key"),
        ("PASSWORD_FILE", "pw.txt"),
        ("API_KEY", ""),
        ("API_KEY", "   "),
        ("API_KEY", "$OTHER"),
        ("API_KEY", "${OTHER}"),
        ("API_KEY", "{{ vault.key }}"),
        ("API_KEY", "<your key>"),
        ("API_KEY", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x"),
        ("API_KEY", "vault:secret/data/key"),
        ("API_KEY", "********"),
        ("USE_AUTH_TOKEN", "true"),
        ("AUTH", "basic"),
        ("RANDOM_SEED", "42"),
        ("PYTHONHASHSEED", "0"),
        ("GIT_COMMIT", HEX40),
        ("IMAGE_DIGEST", "sha256:" + HEX40),
        ("WANDB_PROJECT", "mnist"),
        ("WANDB_RUN_ID", "3k2j1h4g"),
        ("URL", "https://example.com/a:b@c"),
        ("URL", "http://user@example.com/"),
        ("URL", "redis://cache:6379/0"),
        ("DATABASE_URL", "postgres://app:$PASSWORD@db/app"),
        ("DATABASE_URL", "postgres://app:<password>@db/app"),
        ("RUN_ID", str(uuid.UUID(int=0x550E8400E29B41D4A716446655440000))),
        ("MODEL", "sk-learn"),
        ("LR", "1e-3"),
        ("START", "2026-01-01T00:00:00"),
        ("NOTE", "the key to a token is a password"),
    ],
)
def test_left_alone(name: str, value: str) -> None:
    assert not looks_secret(name, value)


def test_references_are_left_alone() -> None:
    env = {"A_PASSWORD": SecretRef(secret="db"), "B_PASSWORD": "hunter2", "C": "1", "D_TOKEN": HEX40}
    assert suspects(env) == ["B_PASSWORD", "D_TOKEN"]


@given(st.text(), st.floats() | st.integers() | st.booleans())
def test_numbers_are_never_suspected(name: str, value: object) -> None:
    number = str(value).lower()
    assert number in ("inf", "-inf", "nan") or not looks_secret(name, number)


@given(st.text(), st.text(alphabet="abc/._-", max_size=40))
def test_paths_are_never_suspected(name: str, path: str) -> None:
    assert not looks_secret(name, f"/{path}")


@given(st.text(), st.text())
def test_any_text_is_judged(name: str, value: str) -> None:
    assert looks_secret(name, value) in (True, False)


@given(st.binary())
def test_digests_are_found_by_a_hint(data: bytes) -> None:
    assert looks_secret("DEPLOY_TOKEN", hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("value", ["eyJ" * 90_000, "a://" * 60_000, ":" * 250_000, "A" * 250_000, "a://:" * 50_000])
def test_long_values_take_no_time(value: str) -> None:
    started = time.process_time()
    looks_secret("A_TOKEN", value)
    assert time.process_time() - started < 1
