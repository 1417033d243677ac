"""One box as with GPUs: a worker whose engine is a process of its own, killed and begun again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import needs
from tests.loop.running import ROOT

pytestmark = [needs.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

STAGE = """
import json, os, signal, sys
from pathlib import Path
from si.store.folder import FolderStore
from si.clusters.local import LocalCluster
from si.store.artifact import Artifact
from si.config.place import Place
from si.config.recipe import Recipe
from si.datasets.sources import fetch, synth
from si.datasets.dataset import Dataset
from si.run import Run
from si.machine.processes import children

folder = Path(sys.argv[1])
store = FolderStore(folder / "store")
recipe = Recipe.model_validate(
    {"sampling": {"engine": "vllm"}, "explore": {"shard_queries": 6}, "data": {"slice_size": 18}}
)
cluster = LocalCluster(
    Place(store=str(store.root)), folder / "logs", folder / "scratch", ["si.clusters.preload"]
)
told = {"killed": [], "retries": 0, "workers": set()}

def hear(event):
    told["workers"].add(event.get("worker", 0))
    told["retries"] += event["event"] == "retry"
    if event["event"] == "shard" and not told["killed"]:
        log = next((folder / "logs").glob("explore-*.log")).resolve()
        here = [int(p.parts[2]) for p in Path("/proc").glob("[0-9]*/fd/2")
                if os.path.realpath(p) == str(log)]
        below = {child for pid in here for child in children(pid)}
        (worker,) = [pid for pid in here if pid not in below and children(pid)]
        told["killed"] = [worker, *children(worker)]
        os.kill(worker, signal.SIGKILL)

run = Run("box", recipe, store, cluster, on_event=hear)
run.stages |= {"it00/data": synth(store), "it00/policy": fetch(store, "embedded")}
run.dataset = Dataset(Artifact(store, run.data))
rollouts = run.explore(1, run.base)
told |= {"workers": sorted(told["workers"]), "rows": rollouts.rows}
print(json.dumps(told))
"""


def test_an_engine_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Its worker is killed after a shard: it is begun again, the stage is whole, one worker was
    enough for it, and of the first engine no process is left to keep memory."""
    env = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", STAGE, str(tmp_path)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rows"] == 18 * 8 and told["retries"] == 1 and told["workers"] == [0]
    assert len(told["killed"]) > 1
    for process in told["killed"]:
        state = Path(f"/proc/{process}/stat")
        assert not state.exists() or ") Z " in state.read_text()
