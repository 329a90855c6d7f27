"""What an idle agent leaves out of its memory."""

from __future__ import annotations

import subprocess
import sys


def test_an_agent_reads_nothing_of_aws_before_a_job_needs_it() -> None:
    script = "import agent.main, sys; print(sorted({'botocore', 'aioboto3'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout.strip() == "[]"
