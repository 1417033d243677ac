"""One box with GPUs, which are made up (`place.gpus`): real workers, each with its own."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from si.engines.port import Trained
from si.errors import RecipeError
from si.machine.processes import children
from si.records import Request, Sampled
from si.store.folder import FolderStore
from tests.loop.running import artefacts, si_ctl, si_ctl_process
from tests.loop.scripted import ScriptedSampler, ScriptedTrainer
from tests.loop.tiny import tiny_data, tiny_recipe

NOTES = "TEST_NOTES"


def note(kind: str, **more: Any) -> None:
    """One line about this process, for the test to read."""
    line = {"kind": kind, "pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    with Path(os.environ[NOTES]).open("a") as file:
        file.write(json.dumps(line | more) + "\n")


class WatchedSampler(ScriptedSampler):
    """Notes which GPUs it was given, and from when to when it was at work."""

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        begun = time.time()
        time.sleep(0.2)
        yield from super().sample(requests)
        size = os.environ.get("SICTL_VLLM_TENSOR_PARALLEL_SIZE")
        note("explore", begun=begun, ended=time.time(), size=size)


class WatchedTrainer(ScriptedTrainer):
    def train(self, *arguments: Any, **more: Any) -> Trained:
        note("train")
        return super().train(*arguments, **more)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(
        tiny_recipe(
            tmp_path,
            tiny_data(FolderStore(tmp_path / "si-runs")),
            iterations=1,
            sampling={"engine": f"{__name__}:WatchedSampler", "max_new_tokens": 120},
            train={"trainer": f"{__name__}:WatchedTrainer", "batch": 8},
            explore={"shard_queries": 4},
        )
    )


@pytest.mark.slow
def test_engines_share_the_gpus_out(recipe: str, tmp_path: Path) -> None:
    """Each exploring worker has a pair of the four GPUs, no two at work have the same, the training
    has all; and what is computed is what a machine without GPUs computes."""
    notes = tmp_path / "notes"
    settings = ("--set", "place.gpus=4", "--set", "place.tensor_parallel=2")
    words = ("iterate", "--recipe", recipe)
    done = si_ctl_process(*words, *settings, cwd=tmp_path, **{NOTES: str(notes)})
    assert "GPUs 0,1 | 2,3 explore" in done.stdout
    told = [json.loads(line) for line in notes.read_text().splitlines()]
    explored = [line for line in told if line["kind"] == "explore"]
    assert {line["gpus"] for line in explored} == {"0,1", "2,3"}
    assert {line["size"] for line in explored} == {"2"}
    for one in explored:
        for other in explored:
            together = one["begun"] < other["ended"] and other["begun"] < one["ended"]
            assert not together or (one["gpus"] == other["gpus"]) == (one["pid"] == other["pid"])
    assert {line["gpus"] for line in told if line["kind"] == "train"} == {"0,1,2,3"}

    tiny_data(FolderStore(tmp_path / "plain"))
    si_ctl(
        *(*words, "--store", str(tmp_path / "plain"), "--set", "place.gpus=0"),
        cwd=tmp_path,
        **{NOTES: str(tmp_path / "other")},
    )
    run = "sums-gr-k4-s0"
    assert artefacts(tmp_path / "plain", run) == artefacts(tmp_path / "si-runs", run)


def test_too_few_are_refused_before_anything_runs(recipe: str, tmp_path: Path) -> None:
    """An engine that asks for more GPUs than there are stops the command with exit code 3."""
    settings = ("--set", "place.gpus=2", "--set", "place.tensor_parallel=4")
    done = si_ctl("iterate", "--recipe", recipe, *settings, cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert "asks for 4 GPUs, and there are 2" in done.stderr and "Traceback" not in done.stderr


class DyingSampler(ScriptedSampler):
    """Starts a process, as engines do, and is killed the first time that it is asked."""

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        if not Path(os.environ[NOTES]).exists():
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            child = children(os.getpid())
            note("child", child=child[0])
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            first = json.loads(Path(os.environ[NOTES]).read_text().splitlines()[0])
            state = Path(f"/proc/{first['child']}/stat")
            note("again", alive=state.exists() and ") Z " not in state.read_text())
        return super().sample(requests)


@pytest.mark.slow
def test_what_a_killed_worker_started_is_ended(recipe: str, tmp_path: Path) -> None:
    """A worker's own processes, which would keep a GPU's memory, are gone before it is begun
    again."""
    notes = tmp_path / "notes"
    settings = ("--set", f"sampling.engine={__name__}:DyingSampler", "--workers", "1")
    si_ctl_process("iterate", "--recipe", recipe, *settings, cwd=tmp_path, **{NOTES: str(notes)})
    told = [json.loads(line) for line in notes.read_text().splitlines()]
    again = [line["alive"] for line in told if line["kind"] == "again"]
    assert again and not any(again)


def forever() -> None:
    time.sleep(600)


class RefusingSampler(ScriptedSampler):
    """Starts a process as vLLM does, which multiprocessing waits for at the end, and raises."""

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        engine = multiprocessing.get_context("fork").Process(target=forever)
        engine.start()
        note("child", child=engine.pid)
        raise RecipeError("This request cannot be answered")


@pytest.mark.slow
def test_a_worker_that_raises_does_not_wait_for_its_engine(recipe: str, tmp_path: Path) -> None:
    """An error ends the worker and what it has started, and the run says which it was."""
    notes = tmp_path / "notes"
    settings = ("--set", f"sampling.engine={__name__}:RefusingSampler", "--workers", "1")
    begun = time.monotonic()
    done = si_ctl_process(
        *("iterate", "--recipe", recipe, *settings),
        cwd=tmp_path,
        check=False,
        **{NOTES: str(notes)},
    )
    assert done.returncode == 3 and "This request cannot be answered" in done.stderr
    assert time.monotonic() - begun < 300  # it would be 600
    child = json.loads(notes.read_text().splitlines()[0])["child"]
    assert not Path(f"/proc/{child}").exists()
