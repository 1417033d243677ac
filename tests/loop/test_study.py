"""`si-ctl study`, small: real runs of the scripted engines, resumed, with controls."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from si.store.folder import FolderStore
from tests.loop.running import artefacts, si_ctl
from tests.loop.tiny import tiny_data, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder, and the words of a study in it."""
    folder = tmp_path_factory.mktemp("study")
    recipe = tiny_recipe(folder, tiny_data(FolderStore(folder / "si-runs")), iterations=1)
    return folder, ("study", "--recipe", str(recipe), "--strategies", "gr", "--k", "2")


def test_a_study_is_planned_run_and_resumed(place):
    """All arms are run and share what they have in common; more seeds add to what is done."""
    folder, words = place
    words += ("--match", "steps,tokens", "--out", "out")
    planned = si_ctl(*words, "--seeds", "0", "--dry-run", cwd=folder).stdout
    assert planned.count("to do") == 3 and "sampled tokens of gr, K = 2" in planned
    assert not (folder / "out").exists()
    first = si_ctl(*words, "--seeds", "0", cwd=folder).stdout
    assert "(d) Is the strategy ahead" in first and "1 seed, 8 test queries" in first
    said = json.loads((folder / "out/study.json").read_text())
    assert said["arms"][:3] == ["vanilla, K = 2", "gr, K = 2", "gr, K = 2, equal steps"]
    # Vanilla with gr's sampled tokens has a larger K, and vanilla's own steps are those of STEPS.
    assert said["arms"][3].startswith("vanilla, K = ") and said["arms"][3] != said["arms"][0]
    vanilla, gr, equal = (
        artefacts(folder / "si-runs", name)
        for name in ("sums-vanilla-k2-s0", "sums-gr-k2-s0", "steps-sums-gr-k2-s0")
    )
    assert vanilla["it01/explore"] == gr["it01/explore"] == equal["it01/explore"]
    assert gr["it01/rebalance"] == equal["it01/rebalance"]
    rows = list(csv.DictReader((folder / "out/results.csv").open()))
    steps = {row["run"]: row["steps"] for row in rows if row["iteration"] == "1"}
    assert steps["steps-sums-gr-k2-s0"] == steps["sums-vanilla-k2-s0"]
    assert len(rows) == len(pq.read_table(folder / "out/results.parquet")) == 4 * 2
    page = (folder / "out/study.html").read_bytes()
    again = si_ctl(*words, "--seeds", "0", cwd=folder).stdout
    assert (folder / "out/study.html").read_bytes() == page and "training" not in again
    assert "done" in si_ctl(*words, "--seeds", "0", "--dry-run", cwd=folder).stdout


def test_files_of_another_study_are_kept(place):
    """A folder with files of another recipe's study is refused before anything runs."""
    folder, words = place
    (folder / "mine").mkdir()
    (folder / "mine/results.csv").write_text("mine")
    done = si_ctl(*words, "--seeds", "3", "--out", "mine", cwd=folder, check=False)
    assert done.returncode == 2 and "files of another recipe's study" in done.stderr
    assert (folder / "mine/results.csv").read_text() == "mine"
    assert not list((folder / "si-runs/runs").glob("*-s3"))
