"""Does a plain environment value look like a secret? Told by its name, by its form, or by both together.

A warning that is often wrong is soon overlooked, so a name alone tells only where it leaves little doubt (`…_PASSWORD`,
`…_API_KEY`), a weaker name (`…_TOKEN`) only with a value that looks random, and a value alone only by a known form.
Paths, numbers and references to something else are never suspected. Values are looked at, never given out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

LOOKED_AT = 8192
"""So many characters of a value are looked at."""

_KNOWN_FORMS = re.compile(
    r"""
      \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                                     # AWS
    | \b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22})       # GitHub
    | \bglpat-[A-Za-z0-9_-]{20}                                         # GitLab
    | \bsk-[A-Za-z0-9_-]{20}                                            # OpenAI, Anthropic and others
    | \b[sr]k_live_[A-Za-z0-9]{16}                                      # Stripe
    | \bhf_[A-Za-z0-9]{30}                                              # Hugging Face
    | \bxox[abprs]-[A-Za-z0-9-]{10}                                     # Slack
    | \bAIza[A-Za-z0-9_-]{35}                                           # Google
    | \bpypi-[A-Za-z0-9_-]{50}                                          # PyPI
    | \bSU[A-Z2-7]{56}\b                                                # a NATS user's seed
    | -----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----
    | \beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10}  # JWT
    | \b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,200}:[^\s/:@${<*][^\s/:@]{0,200}@    # a URL with a password
    """,
    re.VERBOSE,
)
_WANDB_KEY = re.compile(r"[0-9a-f]{40}")

_TELLING = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|SECRETS?|CREDENTIALS?|APIKEY|(?:API|ACCESS|SECRET|PRIVATE|ENCRYPTION"
    r"|SIGNING|LICENSE|ACCOUNT)_KEY|(?:API|ACCESS|AUTH|BEARER|REFRESH|SECRET|SESSION|BOT)_TOKEN)$"
)
_HINTING = re.compile(r"(?:^|_)(?:KEY|TOKEN|PASS|PWD|AUTH|PAT|JWT|SEED|SALT|COOKIE|CERT)$")

_HARMLESS = re.compile(
    r"""
      [-+]?[0-9][0-9_.,:]*(?:[eE][-+]?[0-9]+)?%?                        # numbers, times, versions
    | (?:true|false|yes|no|on|off|none|null|auto|default|disabled|enabled)
    | (?:/|\./|\.\./|~/|[A-Za-z]:\\).*                                  # paths
    | \$.* | \{.*\} | %.*% | <.*> | \[.*\]                              # references, placeholders, special tokens
    | (?:arn|vault|ssm|file|env|secret|op|gcp|aws|s3|gs|https?)[:+].*   # references
    | [*xX.]+                                                           # already blotted out
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_RUN = re.compile(r"[A-Za-z0-9+/=]{16,}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_RANDOM_BITS = 2.9
"""Bits a character: hex digits drawn at random have nearly 4, words of one letter 0."""


def suspects(env: Mapping[str, object]) -> list[str]:
    """The names whose values are plain text and look like secrets, in order."""
    return [name for name, value in env.items() if isinstance(value, str) and looks_secret(name, value)]


def looks_secret(name: str, value: str) -> bool:
    """Whether this plain value is likely a secret."""
    value = value[:LOOKED_AT].strip()
    if _KNOWN_FORMS.search(value):
        return True
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[.-]", "_", name[:256]).upper()
    word = re.sub(r"_?[0-9]+$", "", word)
    if "WANDB" in word and _WANDB_KEY.fullmatch(value):
        return True
    if not value or _HARMLESS.fullmatch(value):
        return False
    return bool(_TELLING.search(word) or (_HINTING.search(word) and _looks_random(value)))


def _looks_random(value: str) -> bool:
    if _UUID.fullmatch(value):
        return True
    return any(_mixed(run) and _bits_a_character(run) >= _RANDOM_BITS for run in _RUN.findall(value))


def _mixed(text: str) -> bool:
    """Digits and letters, as words have not."""
    digits = sum(char.isdigit() for char in text)
    return digits >= 2 and any(char.isalpha() for char in text)


def _bits_a_character(text: str) -> float:
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
