"""`status`: a run as a tree, how long is left, and what is shown while it goes on."""

import threading
import time

import pytest
from rich.console import Console

from si.cli.console import Leaf, draw, of_journal, of_store, span, watch
from si.clusters.local import at_work, exclusive
from si.config.recipe import Recipe
from si.runs.record import begin
from si.runs.status import Known, ended, status
from si.runs.usage import Ledger
from si.store.commit import Output, announce, commit_shard, finish
from si.store.folder import FolderStore
from si.store.keys import Spec, canonical, sealed

NOW = 1_800_000_000.0


def stamp(when):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


class Runs:
    """A run in a store, written stage by stage, with made-up times."""

    def __init__(self, folder):
        self.store = FolderStore(folder)
        begin(self.store, "x", Recipe(iterations=2))

    def stage(self, entry, shards=1, done=None, seconds=10.0, workers=1, end=NOW, again=0):
        """A stage of `entry`'s name with so many committed shards, the last of them at `end`."""
        kind = entry.split("/")[1]
        stage = kind if kind in ("explore", "verify", "train", "evaluate", "report") else "explore"
        spec = Spec(stage, entry.replace("/", "-"), {}, {"entry": entry}, {}, shards)
        announce(self.store, spec)
        facts = {"explore": {"samples": 1, "tokens": 2}, "verify": {"samples": 2, "correct": 1}}
        facts |= {"train": {"steps": 3, "losses": [1.0, 0.5]}, "evaluate": {"accuracy_dev": 0.5}}
        done = shards if done is None else done
        for shard in (*range(done), *[0] * again):
            said = {"seconds": seconds, "finished": stamp(end), "worker": shard % workers}
            commit_shard(self.store, spec, shard, Output({}, 1, facts.get(stage, {}), said))
        finish(self.store, spec)
        pointer = sealed({"stage": stage, "address": spec.address, "key": spec.key})
        self.store.put(f"runs/x/{entry}.json", canonical(pointer))

    def left(self, entry, monkeypatch, now=NOW):
        monkeypatch.setattr("si.runs.status.time.time", lambda: now)
        tree = status(self.store, "x")
        stages = [stage for part in tree["iterations"] for stage in part["stages"]]
        return next(stage["seconds_left"] for stage in stages if stage["entry"] == entry)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def shown(tree):
    console = Console(width=100, highlight=False)
    with console.capture() as captured:
        console.print(tree, soft_wrap=True)
    return captured.get()


def test_time_left_by_the_stages_own_shards(runs, monkeypatch):
    """Open shards take as long as those that are in, by as many workers, less what has passed."""
    runs.stage("it01/explore", shards=10, done=4, seconds=10, workers=2)
    assert runs.left("it01/explore", monkeypatch) == 6 * 10 / 2
    assert runs.left("it01/explore", monkeypatch, NOW + 12) == 18
    assert runs.left("it01/explore", monkeypatch, NOW + 3600) is None


def test_time_left_by_the_iteration_before(runs, monkeypatch):
    """A stage without a shard takes as long as the same one of the iteration before, from when
    the stage before it was done; of the first iteration nothing is known."""
    runs.stage("it01/explore", shards=2, seconds=30, workers=2, end=NOW - 500)
    runs.stage("it01/train", seconds=100, end=NOW - 300)
    runs.stage("it02/explore", shards=4, done=0)
    assert runs.left("it02/explore", monkeypatch, NOW - 290) == 60 - 10
    runs.stage("it02/explore", shards=4, seconds=60, end=NOW)
    runs.stage("it02/train", done=0)
    assert runs.left("it02/train", monkeypatch, NOW + 40) == 60
    runs.stage("it02/evaluate", done=0)
    assert runs.left("it02/evaluate", monkeypatch) is None


def test_what_is_done_is_read_once(runs, monkeypatch):
    """Looking again reads what is open, and nothing of what was done."""
    runs.stage("it01/explore", shards=3)
    runs.stage("it01/verify", shards=3, done=1)
    known = Known(Ledger(runs.store))
    first = status(runs.store, "x", known)
    read = []
    monkeypatch.setattr(
        FolderStore, "get", lambda store, a, get=FolderStore.get: read.append(a) or get(store, a)
    )
    assert status(runs.store, "x", known) == first
    assert read and all("explore" not in address for address in read)
    runs.stage("it01/verify", shards=3)
    stages = status(runs.store, "x", known)["iterations"][0]["stages"]
    assert [stage["state"] for stage in stages] == ["done", "done"]


def test_a_run_is_over_with_its_last_report(runs):
    """A run has ended with the report on the iterations that it was begun with, not before."""
    runs.stage("it01/report")
    assert not ended(status(runs.store, "x"))
    runs.stage("it02/evaluate")
    assert not ended(status(runs.store, "x"))
    runs.stage("it02/report", done=0)
    assert not ended(status(runs.store, "x"))
    runs.stage("it02/report")
    assert ended(status(runs.store, "x"))


def test_who_is_at_work_is_known(tmp_path):
    """The process that holds a run is named while it does; looking does not keep others from it."""
    import os

    assert at_work(str(tmp_path), "x") is None
    with exclusive(str(tmp_path), "x"):
        assert at_work(str(tmp_path), "x") == os.getpid()
    assert at_work(str(tmp_path), "x") is None
    looking = threading.Event()

    def look():
        while not looking.is_set():
            at_work(str(tmp_path), "x")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            with exclusive(str(tmp_path), "x"):
                pass
    finally:
        looking.set()
        thread.join()


def test_a_tree_of_a_run(runs, monkeypatch):
    """The tree says what is done, what was repeated, who is at work and how long is left; live,
    iterations that are over take a line each."""
    runs.stage("it00/evaluate")
    runs.stage("it01/explore", shards=2, again=1)
    runs.stage("it01/evaluate")
    runs.stage("it02/explore", shards=4, done=1)
    monkeypatch.setattr("si.runs.status.time.time", lambda: NOW)
    tree = status(runs.store, "x")
    text = shown(draw(*of_store(tree, 77)))
    assert "process 77 is at work" in text
    assert "1 repeated  1 samples" in text or "1 repeated  2 samples" in text
    assert "at work: 1 of 4 shards, about 30 s left" in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    brief = shown(draw(*of_store(tree, 77), brief=True))
    assert "iteration 1            40.0 s  dev 50.0 %" in brief and brief.count("explore") == 1
    idle = shown(draw(*of_store(tree, None)))
    assert "open: 1 of 4 shards" in idle and "left" not in idle and "at work" not in idle


def stage(entry, state="done", **more):
    made = {"entry": entry, "state": state, "shards": 4, "committed": 4, "attempts": 1}
    return made | {"failed": 0, "failures": [], "problem": None, "words": "w"} | more


def test_a_tree_of_a_controllers_journal():
    """On a cluster the journal says as much: time left, failures, what a Job waits for, errors."""
    state = {
        "run": "x",
        "phase": "running",
        "starts": 2,
        "stages": [
            stage("it01/explore", seconds=40.0),
            stage("it01/train", seconds=100.0, attempts=2),
            stage("it02/explore", "running", began=NOW - 30, committed=1),
            stage(
                "it02/train",
                "running",
                began=NOW - 30,
                committed=0,
                failures=[{"pod": "p\x1b[2J", "why": "was killed"}],
                problem={"headline": "No node", "detail": "has a GPU", "ways_out": []},
            ),
        ],
        "error": {"headline": "gone", "detail": "why"},
    }
    text = shown(draw(*of_journal(state, NOW)))
    for words in (
        "x: running, controller started 2 times",
        "at work: 1 of 4 shards, about 90 s left",
        "at work: 0 of 4 shards, about 70 s left",
        "Job 2: earlier ones failed",
        "was killed",
        "No node: has a GPU",
        "gone",
    ):
        assert words in text, text
    assert "30.0 s" in text and "\x1b" not in text


def test_without_a_terminal_everything_is_said_once(capsys):
    """Elsewhere than in a terminal, a run's head and each stage that is done are a line, once."""
    done, at_work = Leaf("it01/a", 1.0, "one", True), Leaf("it01/b", None, "at work", False)
    looks = [
        (("x: not started", [], []), False),
        (("x: running", [done, at_work], []), False),
        (("x: running", [done, at_work], []), False),
        (("x: done", [done, at_work._replace(done=True, words="two")], ["stopped"]), True),
    ]
    watch(iter(looks).__next__, lambda: None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("x: not started", "x: running", "it01/a", "x: done", "it01/b", "stopped")
    ]


def test_spans_in_words():
    """Short spans are told in seconds, longer ones in minutes and hours."""
    assert [span(s) for s in (0.4, 75, 300, 10_000)] == ["0 s", "75 s", "5 min", "2.8 h"]
    assert Leaf("it01/x", None, "", False).notes == ()
