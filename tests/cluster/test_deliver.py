"""A run on the cluster is told to a tracker and pushed to a hub at its end, each by a pod of its own.

The hub is a server on this machine. The stand-in knows no secrets: their places in the environment are filled by hand.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.stand_in import BUCKET, TRAIN, Cluster, tries
from tests.gdsd.fake_hub import TOKEN, FakeHub

pytestmark = pytest.mark.cluster
PUBLISH = {
    "trackers": [{"name": "tensorboard", "folder": f"s3://{BUCKET}/runs"}],
    "hub": {"repo": "org/policy", "when": "always"},
}


def test_a_run_is_told_of_and_pushed_at_its_end(
    cluster: Cluster, written: Callable[[str, dict[str, Any]], Path]
) -> None:
    """If it fails, a cluster cannot deliver what this machine can, or loses the run over it."""
    config = written("deliver", TRAIN | {"rounds": 1, "validate_every": 1, "publish": PUBLISH})
    with FakeHub() as hub:
        # The first attempt at a commit fails, so that there is a second one.
        hub.failures["/commit/"] = [503]
        given = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "_FSEC_GDSD_HF_TOKEN": TOKEN}
        variables = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
        execution = cluster.start("deliver", *variables, "workflows/gdsd.py", "train", "--config", config).succeeded()
        assert [len(attempts) for attempts in tries(execution, "push_policy").values()] == [2]
        files = hub.files["org/policy"]
    folder = cluster.folder(execution)
    for name, place in (("README.md", "README.md"), ("model.safetensors", "policy/model.safetensors")):
        assert files[name] == cluster.files.cat_file(f"{folder}/{place}")
    told = [name.rpartition("/")[2] for name in cluster.files.find(f"{BUCKET}/runs")]
    assert len(told) == 2 and "report.html" in told and any("tfevents" in name for name in told)
