"""Send a run's metrics to trackers: TensorBoard, MLflow, W&B.

The metrics come from finished stages, in the order in which the run has them. So they can be sent
at any time, by the loop while it works and by `si-ctl track` afterwards, and sending them twice
adds no points: a stage's metrics are one `Batch` with a name and a position, and never change.
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


# --- from stages to batches ----------------------------------------------------------------


class Reader:
    """Turns a run's finished stages, in their order, into batches."""

    def __init__(self, store: Store):
        self.store = store
        self.batches = self.points = self.steps = 0

    def read(self, entry: str, manifest: Manifest) -> Batch | None:
        """The metrics of a finished stage; None if it has none."""
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
        left = [0.0] * steps  # seconds from each step's end to the last step's end
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
        samples = part.get("samples")
        # Trackers do not allow @ in a name.
        values[f"avg_at_{samples}/{split}" if samples else f"accuracy/{split}"] = part["accuracy"]
        for k, passed in part.get("pass_at", {}).items():
            values[f"pass_at_{k}/{split}"] = passed
        if samples:
            values[f"maj_at_{samples}/{split}"] = part["majority"]
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
    """When an attempt ended, in seconds since 1970; 0 if unknown."""
    return next((end for _, end in intervals([said])), 0.0)


# --- while the loop runs -------------------------------------------------------------------

Open = Callable[[], Tracker]  # imports the tracker's library, which may take seconds


class Tracking:
    """Sends a run's stages to trackers as they finish.

    Each tracker has its own thread. None can stop the loop, or delay it by more than `PATIENCE`
    seconds at its end. A tracker that fails is reported once and receives no more.
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
        """Wait for the trackers to finish; only briefly after an error."""
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
        """Handle an event of `si.run.Run`; `stages` are the run's."""
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
        self.later = f"the run continues without it. Afterwards: si-ctl track {run.run} --to {name}"

    def run(self) -> None:
        try:
            tracker = self.opened()
            known = tracker.begin(self.run_)
            while stage := self.queue.get():
                batch = self.reader.read(*stage)
                if batch and batch.name not in known:
                    tracker.log(batch)
            tracker.end()
        except Exception as error:  # noqa: BLE001 (whatever it is, the loop continues)
            self.warn(f"{self.name} failed ({why(error)[:200]}); {self.later}")


def why(error: Exception) -> str:
    """A tracker's error in one line, without the user and password of addresses."""
    said = error.headline if isinstance(error, SiError) else f"{type(error).__name__}: {error}"
    return without_user(" ".join(said.split()))


def without_user(text: str) -> str:
    """The text with user and password removed from addresses."""
    return re.sub(r"(\w://)[^/\s@]+@", r"\1", text)


# --- afterwards ----------------------------------------------------------------------------


class Backlog:
    """Sends one tracker the finished stages of a run, and later those that have finished since."""

    def __init__(self, store: Store, run: str, tracked: Tracked, tracker: Tracker):
        self.store, self.run, self.tracker = store, run, tracker
        self.reader = Reader(store)
        self.known = tracker.begin(tracked)
        self.read: set[str] = set()
        self.pointers: dict[str, str] = {}

    @property
    def stages(self) -> int:
        """Number of stages with metrics so far."""
        return self.reader.batches

    def go_on(self) -> int:
        """Send new stages; returns their number."""
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
