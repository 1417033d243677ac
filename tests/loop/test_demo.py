"""`si-ctl demo`, small: two real runs, one page; and the board's guesses of the time left."""

import pytest

from si.cli.demo import Board
from si.cli.options import Wanted, as_begun, resolve
from si.config.loading import load
from si.config.recipe import differences
from si.runs.record import begin
from si.store.folder import FolderStore
from tests.loop.running import artefacts, si_ctl_process

SMALL = {
    "SI_DATA__SLICE_SIZE": "24",
    "SI_EVALUATE__LIMIT": "8",
    "SI_EVALUATE__SAMPLES": "2",
    "SI_K": "4",
}


@pytest.mark.slow
def test_the_demo_ends_with_a_page(tmp_path):
    """Both runs are done, they share their first round, and the page and the terminal agree."""
    done = si_ctl_process("demo", "--iterations", "1", cwd=tmp_path, **SMALL)
    for words in ("Nothing is downloaded", "vanilla, policy 0: ", "gr, iteration 1: ", " left"):
        assert words in done.stdout
    vanilla, gr = (
        artefacts(tmp_path / "si-runs", f"embedded-{strategy}-k4-s0")
        for strategy in ("vanilla", "gr")
    )
    assert vanilla["it01/explore"] == gr["it01/explore"]
    assert vanilla["it01/train"] != gr["it01/train"]
    page = (tmp_path / "si-runs/reports/demo.html").read_text()
    sentence = next(line for line in done.stdout.splitlines() if line.startswith("Plain self-"))
    assert sentence in page and "<script" not in page
    again = si_ctl_process("demo", "--iterations", "1", cwd=tmp_path, **SMALL)
    assert sentence in again.stdout


def test_the_time_left_counts_what_is_shared_once():
    """gr's first round and policy 0 are vanilla's; the guess shrinks as steps are done."""
    board, longer = Board(2), Board(3)
    assert ("gr", "it01/explore") not in board.todo and ("gr", "it01/explore-2") in board.todo
    assert ("gr", "it00/evaluate") not in board.todo and ("vanilla", "it00/evaluate") in board.todo
    assert 0 < board.left() < longer.left()


def test_a_run_begun_before_the_default_changed_is_resumed(tmp_path):
    """Without a recipe file, a run keeps what the same command meant when it began."""
    store, name = FolderStore(tmp_path), "embedded-vanilla-k2-s0"
    flags = {"strategy": "vanilla", "k": 2}
    former, today = load(None, flags)[0], resolve(None, None, flags)[0]
    assert differences(former, today)

    def wanted(recipe=None, settings=None, fresh=False):
        return Wanted(recipe, settings, flags, None, fresh, False)

    assert as_begun(store, name, wanted(), today) == today  # nothing has begun
    begin(store, name, former)
    assert as_begun(store, name, wanted(), today) == former
    assert as_begun(store, name, wanted(fresh=True), today) == today
    assert as_begun(store, name, wanted("embedded"), today) == today
    other = resolve(None, ["train.lr=1e-3"], flags)[0]
    assert as_begun(store, name, wanted(settings=["train.lr=1e-3"]), other) == other
