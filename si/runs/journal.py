"""The controller's journal: a run's progress as it happens, with each stage in a few words.

The journal is stored in the run's object on a cluster. It is small, complete at any moment, and
rewritten after every change.
"""

import time
from collections.abc import Callable
from typing import Any

from si.entry import Entry
from si.errors import SiError
from si.events import Event
from si.runs.limits import LIMITS
from si.stages import STAGES

FUTILE = 6  # errors in a row that a controller is restarted after
LAST_FAILURES = 10  # kept per stage; the count continues


class Journal:
    """A run's state, updated by the loop's events.

    Attributes:
        state: `phase` (running, retrying after an error that may pass, done, stopped at a limit,
            failed), `futile` (errors since the last progress), `generation`, `starts` (of the
            controller), `stopped` (why it ended early: a `Stop`, or None), `stages` in
            the order of their start; for a stage `entry`, `state` (running or done), `shards`,
            `committed`, `words`, `seconds`, `attempts` (Jobs created), `failures` (the last ones:
            pod, why, when), `failed` (their number), `problem` (what it waits for, or None).
    """

    def __init__(self, state: dict[str, Any], save: Callable[[dict[str, Any]], None]):
        self.state: dict[str, Any] = {"stages": [], "starts": 0} | state
        self.save = save

    def start(self, **facts: Any) -> None:
        """Record that a controller starts or restarts; `facts` go into the state."""
        self.state |= facts
        self.state |= {"phase": "running", "starts": self.state["starts"] + 1}
        self.state |= {"error": None, "stopped": None}
        self.save(self.state)

    def end(self, error: SiError | None = None, **facts: Any) -> None:
        """Record that the loop has ended: successfully, at a limit, or with an error."""
        limited = (facts.get("stopped") or {}).get("rule") in LIMITS
        self.state |= facts | {"phase": "failed" if error else "stopped" if limited else "done"}
        if error:
            self.state["error"] = said(error)
        self.save(self.state)

    def interrupted(self, error: SiError, **facts: Any) -> bool:
        """Record an error after which the controller is restarted, unless it fails again and again
        without any progress in between; returns whether it is."""
        progress = sum(stage["committed"] for stage in self.state["stages"])
        futile = self.state.get("futile", 0) if progress == self.state.get("progress") else 0
        self.state |= {"progress": progress, "futile": futile + 1}
        if futile >= FUTILE:
            self.end(error, **facts)
            return False
        self.state |= facts | {"phase": "retrying", "error": said(error)}
        self.save(self.state)
        return True

    def hear(self, event: Event) -> None:
        """Record one event of `si.run.Run` or of a cluster."""
        stage = self._stage(event["entry"])
        match event["event"]:
            case "begin":
                stage |= {"state": "running", "shards": event["shards"], "began": time.time()}
            case "job":
                stage["attempts"] = event["attempt"]
            case "shards":
                stage["committed"] = event["committed"]
            case "problem":
                stage["problem"] = {k: event[k] for k in ("headline", "detail", "ways_out")}
            case "solved":
                stage["problem"] = None
            case "failure":
                stage["failed"] += 1
                failure = {"pod": event["pod"], "why": event["why"], "when": time.time()}
                stage["failures"] = [*stage["failures"], failure][-LAST_FAILURES:]
            case "done" if stage["state"] != "done":
                words = describe(event["entry"], event["facts"])
                stage |= {"state": "done", "words": words, "problem": None}
                stage["committed"] = stage["shards"]
                if "began" in stage:
                    stage["seconds"] = round(time.time() - stage.pop("began"), 1)
            case _:
                return
        self.save(self.state)

    def _stage(self, entry: str) -> dict[str, Any]:
        for stage in self.state["stages"]:
            if stage["entry"] == entry:
                found: dict[str, Any] = stage
                return found
        made: dict[str, Any] = {
            "entry": entry,
            "state": "running",
            "shards": 1,
            "committed": 0,
            "attempts": 0,
            "failed": 0,
            "failures": [],
            "problem": None,
        }
        self.state["stages"].append(made)
        return made


def said(error: SiError) -> dict[str, Any]:
    """An error as a record."""
    return {
        "headline": error.headline,
        "detail": error.detail,
        "ways_out": list(error.ways_out),
        "exit_code": error.exit_code,
    }


def describe(entry: str, facts: dict[str, Any]) -> str:
    """An entry's figures in a few words; empty if there is nothing to say."""
    stage = STAGES.get(Entry.parse(entry).stage)
    return stage.facts.model_validate(facts).describe() if stage else ""
