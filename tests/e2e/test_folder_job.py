"""A folder and a command, typed; its output watched, what it left fetched; tried again, it goes on where it was."""

from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.unit.launch.test_folder import make

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]

TRAIN = """\
echo "attempt $LAUNCH_ATTEMPT in $(pwd) as $(id -u)"
cat lib/words
./tool.sh
touch lib/new made-here
epoch=$(cat $LAUNCH_CHECKPOINT/epoch 2>/dev/null || echo 0)
while [ $epoch -lt 4 ]; do
    epoch=$((epoch + 1))
    echo $epoch > $LAUNCH_CHECKPOINT/draft && mv $LAUNCH_CHECKPOINT/draft $LAUNCH_CHECKPOINT/epoch
    echo "epoch $epoch"
    [ "$epoch $LAUNCH_ATTEMPT" = "2 1" ] && exit 1
done
echo weights > $LAUNCH_ARTIFACTS/model
"""


def test_a_folder_is_submitted_watched_and_its_model_fetched(
    working: World, queue_name: str, busybox_image: str
) -> None:
    job = make(
        working.home / "job",
        {"train.sh": TRAIN, "lib/words": "shipped\n", "tool.sh": "#!/bin/sh\necho tool\n", "secret.env": "no"},
    )
    make(job, {".gitignore": "*.env\n"})
    (job / "tool.sh").chmod(0o755)
    spec = working.home / "job.yaml"
    spec.write_text(f"image: {busybox_image}\ncode: job\nuser: 1234\nretries: 1\ncommand: [sh, train.sh]\n")
    submitted = working.run("submit", "-q", queue_name, "-c", str(spec), "--follow")
    assert submitted.out == [
        "attempt 1 in /launch/code as 1234", "shipped", "tool", "epoch 1", "epoch 2",
        "attempt 2 in /launch/code as 1234", "shipped", "tool", "epoch 3", "epoch 4",
    ]  # fmt: skip
    assert any("code sent" in line for line in submitted.err)
    into = working.home / "fetched"
    working.run("artifacts", f"{queue_name}/1", "--get", str(into))
    assert (into / "model").read_text() == "weights\n"

    again = working.run("retry", f"{queue_name}/1").out
    assert again == [f"{queue_name}/2"]
    working.run("wait", again[0])
    listed = working.run(
        "submit", "-q", queue_name, "--image", busybox_image, "--code", "job", "--input", again[0], "--input",
        f"{again[0]}:/data", "--follow", "--", "sh", "-c",
        "ls -A; cat /data/model $LAUNCH_INPUTS/*/model",
    )  # fmt: skip
    assert listed.out == [".gitignore", "lib", "tool.sh", "train.sh", "weights", "weights"]
    assert not any("code sent" in line for line in listed.err)


def test_code_that_is_not_in_the_store_fails_the_job_and_says_what_to_do(
    working: World, queue_name: str, busybox_image: str, tmp_path: Path
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(f"image: {busybox_image}\ncode: {{sha256: {'0' * 64}, size: 1}}\n")
    working.run("submit", "-q", queue_name, "-c", str(spec), "--follow", code=1)
    record = working.json("show", f"{queue_name}/1")
    assert (record["state"], record["reason"]) == ("failed", "invalid_spec")
    assert "submit the job again with --code" in record["message"]
