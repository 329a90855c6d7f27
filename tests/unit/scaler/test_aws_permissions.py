"""The policy in the manual allows what the AWS provider calls, and nothing more."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
IMPLIED = {"ec2:CreateTags", "iam:PassRole"}
"""What RunInstances needs besides, for tags and for an instance profile."""


def called() -> set[str]:
    """The actions behind the calls, as far as they are named in the code."""
    source = "\n".join(path.read_text() for path in (ROOT / "scaler" / "adapters" / "aws").glob("*.py"))
    operations = set(re.findall(r'(?:call|pages|_ask)\(\s*"([a-z_]+)"', source))
    operations |= set(re.findall(r"client\.((?!get_paginator|client)[a-z]+_[a-z_]+)\(", source))
    return {
        ("ssm:" if name == "get_parameter" else "ec2:") + "".join(part.capitalize() for part in name.split("_"))
        for name in operations
    }


def allowed() -> set[str]:
    """The actions of the policy."""
    text = (ROOT / "docs" / "operating.md").read_text()
    policy = json.loads(text[text.index("```json") + 7 :].partition("```")[0])
    found = [statement["Action"] for statement in policy["Statement"]]
    return {action for given in found for action in ([given] if isinstance(given, str) else given)}


def test_the_manual_s_policy_fits_the_code() -> None:
    assert "ec2:RunInstances" in called()
    assert allowed() == called() | IMPLIED
