"""A run's metrics, as trackers show them: TensorBoard, MLflow, W&B.

What is tracked is what finished stages say of themselves, in the order in which the run has them.
So it can be said at any time, by the loop while it works and by `si-ctl track` afterwards, and a
second time is no second point: a stage's metrics are one `Batch`, which has a name, a place in
the order, and never changes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Self

from si.entry import Entry
from si.errors import SiError
from si.events import Event
from si.records import HEAD, LEVELS, TAIL
from si.runs.status import entries
from si.runs.trackers.port import Batch, Point, Tracked, Tracker
from si.runs.usage import intervals, made_by
from si.store.artifact import Artifact
from si.store.commit import Manifest, load_manifest
from si.store.keys import Spec
from si.store.port import Store

STEP, ITERATION = "gradient step", "iteration"
PATIENCE, HURRY = 30.0, 4.0  # seconds that a run's end waits for a tracker


# --- what a stage has to say ---------------------------------------------------------------


class Reader:
    """Turns a run's finished stages, in their order, into batches."""

    def __init__(self, store: Store):
        self.store = store
        self.batches = self.points = self.steps = 0

    def read(self, entry: str, manifest: Manifest) -> Batch | None:
        """What a stage has to say; None if nothing."""
        where = Entry.parse(entry)
        t, step, facts = where.t, where.step, manifest.facts
        artifact = Artifact(self.store, manifest)
        match step:
            case "explore" | "explore-2":
                values = {
                    f"{step}/{name}": facts.get(name) for name in ("samples", "tokens", "dropped")
                }
            case "rebalance":
                values = _matthew(artifact.json("metrics.json"))
            case "evaluate":
                values = _scores(artifact.json("scores.json"))
            case "train":
                return self._batch(entry, self._training(t, manifest))
            case _:
                return None
        said = made_by(self.store, manifest)
        return self._batch(entry, [Point(ITERATION, t, _finished(said), _known(values))])

    def _batch(self, entry: str, points: Iterable[Point]) -> Batch:
        batch = Batch(entry, self.batches, self.points, tuple(points))
        self.batches += 1
        self.points += len(batch.points)
        return batch

    def _training(self, t: int, manifest: Manifest) -> Iterator[Point]:
        facts, said = manifest.facts, made_by(self.store, manifest)
        speed, end = said.get("train", {}), _finished(said)
        steps = facts.get("steps", 0)
        columns = {
            "train/loss": facts.get("losses"),
            "train/learning_rate": facts.get("learning_rates"),
            "train/grad_norm": facts.get("grad_norms"),
            "train/seconds": speed.get("seconds"),
            "train/tokens": speed.get("tokens"),
        }
        whole = {name: column for name, column in columns.items() if len(column or ()) == steps}
        left = [0.0] * steps  # seconds from each step's end to the last one's
        for i, seconds in reversed(list(enumerate(whole.get("train/seconds", ())))):
            if i:
                left[i - 1] = left[i] + seconds
        for i in range(steps):
            values = {name: column[i] for name, column in whole.items()}
            yield Point(STEP, self.steps + i + 1, end - left[i], _known(values))
        self.steps += steps
        values = {
            "training/steps": steps,
            "training/examples": facts.get("examples"),
            "training/tokens": facts.get("tokens"),
            "training/dropped": facts.get("dropped"),
            "training/tokens_per_second": speed.get("tokens_per_second"),
            "training/mfu": speed.get("mfu"),
            "training/peak_memory_bytes": speed.get("peak_memory_bytes"),
        }
        yield Point(ITERATION, t, end, _known(values))


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for split, part in scores.items():
        values[f"accuracy/{split}"] = part["accuracy"]
        values[f"response_tokens/{split}"] = part["tokens_mean"]
        for level, at in part["by_level"].items():
            values[f"accuracy_{split}/{level}"] = at["accuracy"]
    return values


def _matthew(metrics: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for what in ("successes", "examples"):
        figures = metrics[what]
        shares = figures["share_by_level"]
        for name in ("total", "head_tail_ratio", "gini", "entropy", "tokens_mean"):
            values[f"{what}/{name}"] = figures.get(name)
        for name, levels in (("head", HEAD), ("tail", TAIL)):
            known = [shares[level] for level in levels if shares.get(level) is not None]
            values[f"{what}/{name}"] = sum(known) if known else None
        for level in LEVELS:
            values[f"{what}_share/{level}"] = shares.get(level)
    for level, rate in (metrics.get("accuracy_by_level") or {}).items():
        values[f"pass_rate/{level}"] = rate
    return values


def _known(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


def _finished(said: Mapping[str, Any]) -> float:
    """When an attempt was done, in seconds since 1970; 0 if it does not say."""
    return next((end for _, end in intervals([said])), 0.0)


# --- while the loop works ------------------------------------------------------------------

Open = Callable[[], Tracker]  # imports the tracker's library, which may take seconds


class Tracking:
    """Tells trackers of a run's stages as they become done.

    Each has a thread of its own: none can stop the loop, or make it wait, but for at most
    `PATIENCE` seconds at its end. One that fails is named once, and hears no more.
    """

    def __init__(
        self,
        run: Tracked,
        store: Store,
        trackers: Mapping[str, Open],
        warn: Callable[[str], None],
    ):
        self.feeds = [_Feed(name, opened, run, store, warn) for name, opened in trackers.items()]
        for feed in self.feeds:
            feed.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Nothing more comes. Who leaves in a hurry does not wait long."""
        for feed in self.feeds:
            feed.queue.put(None)
        patience = PATIENCE if kind is None else HURRY
        deadline = monotonic() + patience
        for feed in self.feeds:
            feed.join(HURRY / 2)
            if feed.is_alive():
                feed.warn(f"Waiting for {feed.name}, for {patience:.0f} s at most")
                feed.join(max(0.0, deadline - monotonic()))
            if feed.is_alive():
                feed.warn(f"{feed.name} does not answer; {feed.later}")

    def hear(self, event: Event, stages: Mapping[Entry, Manifest]) -> None:
        """Take in an event of `si.run.Run`, whose stages these are."""
        if event["event"] == "done":
            for feed in self.feeds:
                feed.queue.put((event["entry"], stages[Entry.parse(event["entry"])]))


class _Feed(Thread):
    def __init__(
        self, name: str, opened: Open, run: Tracked, store: Store, warn: Callable[[str], None]
    ):
        super().__init__(name=name, daemon=True)
        self.opened, self.run_, self.reader, self.warn = opened, run, Reader(store), warn
        self.queue: SimpleQueue[tuple[str, Manifest] | None] = SimpleQueue()
        self.later = f"the run goes on without it. Afterwards: si-ctl track {run.run} --to {name}"

    def run(self) -> None:
        try:
            tracker = self.opened()
            known = tracker.begin(self.run_)
            while stage := self.queue.get():
                batch = self.reader.read(*stage)
                if batch and batch.name not in known:
                    tracker.log(batch)
            tracker.end()
        except Exception as error:  # noqa: BLE001 (whatever it is, the loop goes on)
            self.warn(f"{self.name} failed ({why(error)[:200]}); {self.later}")


def why(error: Exception) -> str:
    """A tracker's error in a line, without what stands before the @ of an address: a password,
    perhaps."""
    said = error.headline if isinstance(error, SiError) else f"{type(error).__name__}: {error}"
    return without_user(" ".join(said.split()))


def without_user(text: str) -> str:
    """Addresses without their user and password."""
    return re.sub(r"(\w://)[^/\s@]+@", r"\1", text)


# --- afterwards ----------------------------------------------------------------------------


class Backlog:
    """Tells one tracker what a run has in its store, and later what it has by then."""

    def __init__(self, store: Store, run: str, tracked: Tracked, tracker: Tracker):
        self.store, self.run, self.tracker = store, run, tracker
        self.reader = Reader(store)
        self.known = tracker.begin(tracked)
        self.read: set[str] = set()
        self.pointers: dict[str, str] = {}

    @property
    def stages(self) -> int:
        """How many stages have had something to say."""
        return self.reader.batches

    def go_on(self) -> int:
        """Tell what is new; of how many stages."""
        new = 0
        for entry, address in entries(self.store, self.run, self.pointers).items():
            manifest = None if entry in self.read else self._whole(address)
            if manifest is None:
                continue
            self.read.add(entry)
            batch = self.reader.read(entry, manifest)
            if batch and batch.name not in self.known:
                self.tracker.log(batch)
                new += 1
        return new

    def _whole(self, address: str) -> Manifest | None:
        return load_manifest(self.store, Spec.load(self.store, address))
