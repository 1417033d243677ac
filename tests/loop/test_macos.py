"""What a system without /proc and core affinities does: the loop runs, and leaves nobody behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from si.config.loading import load
from si.loop import conclude
from si.machine import processes
from si.run import Run
from si.runs.record import begin
from si.store.folder import FolderStore
from tests.loop.inline import InlineCluster
from tests.loop.running import ROOT, artefacts, si_ctl
from tests.loop.scripted import write_policy
from tests.loop.tiny import tiny_data, tiny_recipe

RUN = "sums-vanilla-k4-s0"
HERE = Path(__file__).parent / "macos"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_loop_needs_nothing_that_only_linux_has(tmp_path: Path) -> None:
    """On a system that calls itself Darwin, with `os.sched_getaffinity` removed and /proc refused
    to all but psutil, a run of real workers makes the artefacts that it makes here in one process,
    and nobody has asked for /proc."""
    store = FolderStore(tmp_path / "si-runs")
    data = tiny_data(store, write_policy(tmp_path / "scripted-policy", 0.6))
    recipe = tiny_recipe(tmp_path, data, iterations=1, strategy="vanilla")
    notes = tmp_path / "notes"
    done = si_ctl(
        *("iterate", "--recipe", str(recipe), "--workers", "1"),
        cwd=tmp_path,
        PYTHONPATH=f"{HERE}{os.pathsep}{ROOT}",
        TEST_NOTES=str(notes),
    )
    assert "Report:" in done.stdout
    assert not notes.exists(), notes.read_text()

    here = FolderStore(tmp_path / "here")
    shutil.copytree(store.root / "data", here.root / "data")
    settings, _ = load(recipe, {}, environment={})
    run = Run(RUN, settings, here, InlineCluster(here), begin(here, RUN, settings))
    conclude(run)
    assert artefacts(store.root, RUN) == artefacts(here.root, RUN)


SAYS = "import os; print(os.uname().sysname, hasattr(os, 'sched_getaffinity')); open('/proc/stat')"


def test_it_is_taken_away(tmp_path: Path) -> None:
    """The test above takes away what it says: otherwise it would show nothing."""
    notes = tmp_path / "notes"
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        env={**os.environ, "PYTHONPATH": str(HERE), "TEST_NOTES": str(notes)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["Darwin", "False"]
    assert "FileNotFoundError" in done.stderr and "/proc/stat" in notes.read_text()


@pytest.mark.parametrize("macos", [False, True])
def test_strays_are_found_by_their_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, macos: bool
) -> None:
    """A process that writes its errors to a worker's log is found, on either system; this process,
    which has the log open too, is not."""
    monkeypatch.setattr(processes, "MACOS", macos)
    log, other = tmp_path / "w0.log", tmp_path / "w1.log"
    with (
        log.open("w") as file,
        other.open("w") as beside,
        subprocess.Popen(["sleep", "60"], stderr=file) as stray,
        subprocess.Popen(["sleep", "60"], stderr=beside) as bystander,
    ):
        found = processes.writing_errors_to({log})
        started = processes.children(os.getpid())
        stray.kill()
        bystander.kill()
    assert found == [stray.pid]
    assert {stray.pid, bystander.pid} <= set(started)


LIMITS = """
import resource, sys
from si.machine import processes
processes.MACOS = sys.argv[1] == "True"
processes.limit_memory(1 << 28)
try:
    print(len(bytearray(1 << 29)))
except MemoryError:
    print("refused")
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
"""


@pytest.mark.parametrize(("macos", "said"), [(False, "refused"), (True, str(1 << 29))])
def test_memory_is_limited_where_it_can_be(macos: bool, said: str) -> None:
    """A process may take so many more bytes and no more; where the system has no such limit it
    goes on without one."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITS, str(macos)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said
