"""The status of a run, read from the store alone."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from si.entry import ROLES, Entry
from si.errors import RunMissing
from si.runs.limits import PATIENCE, Stop, recorded
from si.runs.record import generations, load_recipe, run_folder
from si.runs.usage import NOTHING, Ledger, Spent, intervals
from si.store.commit import committed, load_manifest
from si.store.keys import Ref, Spec, read_record
from si.store.port import Store


def runs(store: Store) -> list[str]:
    """Names of all runs in the store."""
    names = {address.split("/")[1] for address in store.list("runs") if address.count("/") > 1}
    return sorted(name for name in names if generations(store, name))


def find_run(store: Store, wanted: str) -> str:
    """A run by its name, or by a strategy that only one run has.

    Raises:
        RunMissing: if there is no such run; lists the existing names.
    """
    names = runs(store)
    if wanted in names:
        return wanted
    same = of_strategy(store, wanted)
    if len(same) == 1:
        return same[0]
    raise RunMissing(
        f"{len(same)} runs have the strategy {wanted}: name one of them"
        if same
        else f"No run is called {wanted!r}",
        "runs in " + store.url + ": " + (", ".join(same or names) or "none"),
        "Start one: si-ctl iterate" if not names else "List all runs: si-ctl status",
    )


def of_strategy(store: Store, strategy: str) -> list[str]:
    """Runs of a strategy; of several, those with a finished iteration if any has one."""
    same = [
        name
        for name in runs(store)
        if load_recipe(store, name, generations(store, name)[-1]).strategy == strategy
    ]
    if len(same) < 2:
        return same
    return [name for name in same if "scores-1" in report_inputs(store, name)] or same


def entries(store: Store, name: str, known: dict[str, str] | None = None) -> dict[str, str]:
    """Entry -> address of every stage that the run's newest generation has started, in order.

    Args:
        known: a cache of pointers, which never change; extended by this call.
    """
    folder = run_folder(name, generations(store, name)[-1])
    known = {} if known is None else known
    found = {}
    for address in store.list(folder):
        match = re.fullmatch(r"(it\d\d+/[a-z0-9-]+)\.json", address.removeprefix(f"{folder}/"))
        if match:
            if address not in known:
                known[address] = read_record(store, address, lambda raw: raw["address"])
            found[match.group(1)] = known[address]

    return {entry: found[entry] for entry in sorted(found, key=Entry.parse)}


def report_inputs(store: Store, name: str) -> dict[str, Ref]:
    """The report stage's inputs by role, from everything that the run has finished."""
    refs: dict[str, Ref] = {}
    for entry, address in entries(store, name).items():
        where = Entry.parse(entry)
        spec = Spec.load(store, address)
        manifest = load_manifest(store, spec)
        if manifest is None:
            continue
        if where.step == "data":
            refs["data"] = manifest.ref
        elif where.step == "evaluate" and "levels" not in refs:
            refs["levels"] = spec.inputs["levels"]
        if where.step in ROLES:
            refs[f"{ROLES[where.step]}-{where.t}"] = manifest.ref
    return refs


@dataclass
class Known:
    """Cache of immutable reads, for callers that poll."""

    ledger: Ledger
    pointers: dict[str, str] = field(default_factory=dict)
    stages: dict[str, tuple[dict[str, Any], Spent]] = field(default_factory=dict)


def status(store: Store, name: str, known: Known | None = None) -> dict[str, Any]:
    """The run as a tree: iterations, their stages, their shards.

    Args:
        known: a cache, extended by this call.

    Returns:
        `run`, `generation`, `strategy`, `k`, `iterations` (list of `iteration`, `stages`),
        `planned` (the number of iterations in its recipe),
        `stopped` (why it ended early, as `si.runs.limits.Stop`, or None), `spent` (by all stages,
        each artefact once); for a stage `entry`, `address`, `state` (done or open), `shards`,
        `committed`, `attempts`, `seconds` and `spent` (by all its winning and losing attempts),
        `facts`, and for an open stage `seconds_left` if a worker is active (None if unknown).
    """
    found = generations(store, name)
    if not found:
        find_run(store, name)
    recipe = load_recipe(store, name, found[-1])
    known = known or Known(Ledger(store))
    spent: dict[str, Spent] = {}
    stages: dict[str, dict[str, Any]] = {}
    for entry, address in entries(store, name, known.pointers).items():
        if address not in known.stages:
            stage, took = _stage(store, known.ledger, address)
            if stage["state"] == "done":
                known.stages[address] = stage, took
        else:
            stage, took = known.stages[address]
        stages[entry], spent[address] = {"entry": entry} | stage, took
    for entry, stage in stages.items():
        if stage["state"] == "open":
            stage["seconds_left"] = _left(entry, stages, known.ledger, time.time())
    tree: dict[int, list[dict[str, Any]]] = {}
    for entry, stage in stages.items():
        tree.setdefault(Entry.parse(entry).t, []).append(stage)
    stopped = stopped_at(store, run_folder(name, found[-1]), stages)
    return {
        "run": name,
        "generation": found[-1],
        "store": store.url,
        "recipe": recipe.name,
        "strategy": recipe.strategy,
        "k": recipe.k,
        "seed": recipe.seed,
        "planned": recipe.iterations,
        "stopped": stopped and stopped.to_json(),
        "spent": sum(spent.values(), NOTHING).to_json(),
        "iterations": [{"iteration": t, "stages": stages} for t, stages in tree.items()],
    }


def ended(tree: dict[str, Any]) -> bool:
    """Whether a run, given its `status`, has a report on all planned iterations."""
    stages = [stage for iteration in tree["iterations"] for stage in iteration["stages"]]
    if not stages:
        return False
    last = stages[-1]["stage"] == "report" and stages[-1]["state"] == "done"
    far = tree["iterations"][-1]["iteration"] >= tree["planned"]
    return last and (far or bool(tree["stopped"]))


def stopped_at(store: Store, folder: str, stages: dict[str, dict[str, Any]]) -> Stop | None:
    """Where the run ended before its last iteration, unless it has continued since."""

    def stands(stop: Stop) -> bool:
        then = stages.get(stop.next, {"state": "open", "committed": stop.committed})
        return (then["state"], then["committed"]) == ("open", stop.committed)

    # Of several stops at one place, the highest limit was tried last.
    order = [(stop.rule != PATIENCE, stop.limit, stop) for stop in recorded(store, folder)]
    order = [found for found in order if stands(found[-1])]
    return max(order, key=lambda found: found[:2])[-1] if order else None


def _stage(store: Store, ledger: Ledger, address: str) -> tuple[dict[str, Any], Spent]:
    spec = Spec.load(store, address)
    manifest = load_manifest(store, spec)
    took = ledger.artifact(manifest) if manifest else ledger.work(address)
    return {
        "stage": spec.stage,
        "address": address,
        "state": "done" if manifest else "open",
        "shards": spec.shards,
        "committed": spec.shards if manifest else len(committed(store, address)),
        "attempts": took.attempts,
        "seconds": round(took.seconds, 2),
        "spent": took.to_json(),
        "rows": manifest.rows if manifest else None,
        "content": manifest.content if manifest else None,
        "facts": manifest.facts if manifest else {},
    }, took


def _left(
    entry: str, stages: Mapping[str, dict[str, Any]], ledger: Ledger, now: float
) -> float | None:
    """Seconds until an open stage is done, if its workers are active: estimated from its own
    shards, or from the same stage of the previous iteration; None if neither helps."""
    stage = stages[entry]
    before = list(takewhile(lambda other: other is not stage, stages.values()))
    done = ledger.attempts(stage["address"])
    if done and stage["committed"]:
        seconds = sum(attempt.get("seconds", 0.0) for attempt in done) / len(done)
        width = len({attempt.get("worker") for attempt in done})
        whole = seconds * (stage["shards"] - stage["committed"]) / width
        since = _ended_at(done)
    else:
        same = [s for s in before if Entry.parse(s["entry"]).step == Entry.parse(entry).step]
        if not same or same[-1]["state"] != "done":
            return None
        whole = same[-1]["spent"]["wall_seconds"] * stage["shards"] / same[-1]["shards"]
        since = max((_ended_at(ledger.attempts(s["address"])) for s in before), default=0.0)
    left = whole - (now - since)
    return round(left) if left > 0 else None


def _ended_at(attempts: Sequence[Mapping[str, Any]]) -> float:
    return max((end for _, end in intervals(attempts)), default=0.0)
