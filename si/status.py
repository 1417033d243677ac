"""How far a run is, read from the store alone."""

import re
from typing import Any

from si.artifacts import Ref, Spec, committed, load_manifest, read_record
from si.errors import RunMissing
from si.loop import ROLES, generations, load_recipe, run_folder
from si.ports import Store
from si.spending import NOTHING, Ledger, Spent
from si.stopping import PATIENCE, Stop, recorded

# The order in which stages happen within an iteration.
ORDER = (
    "data",
    "policy",
    "levels-explore",
    "levels-verify",
    "levels",
    "explore",
    "verify",
    "resample",
    "explore-2",
    "verify-2",
    "rebalance",
    "train",
    "evaluate-explore",
    "evaluate-verify",
    "evaluate",
    "report",
)


def runs(store: Store) -> list[str]:
    """Names of all runs in the store."""
    names = {address.split("/")[1] for address in store.list("runs") if address.count("/") > 1}
    return sorted(name for name in names if generations(store, name))


def find_run(store: Store, wanted: str) -> str:
    """A run by its name, or by a strategy that only one run has.

    Raises:
        RunMissing: with the names there are.
    """
    names = runs(store)
    if wanted in names:
        return wanted
    same = [
        name
        for name in names
        if load_recipe(store, name, generations(store, name)[-1]).strategy == wanted
    ]
    if len(same) == 1:
        return same[0]
    raise RunMissing(
        f"{len(same)} runs have the strategy {wanted}: name one"
        if same
        else f"No run is called {wanted!r}",
        "runs in " + store.url + ": " + (", ".join(same or names) or "none"),
        "Begin one: si-ctl iterate" if not names else "See them all: si-ctl status",
    )


def entries(store: Store, name: str) -> dict[str, str]:
    """Entry -> address of every stage that the run's newest generation has begun, in order."""
    folder = run_folder(name, generations(store, name)[-1])
    found = {}
    for address in store.list(folder):
        match = re.fullmatch(r"(it\d\d+/[a-z0-9-]+)\.json", address.removeprefix(f"{folder}/"))
        if match:
            found[match.group(1)] = read_record(store, address, lambda raw: raw["address"])

    def when(entry: str) -> tuple[str, int]:
        iteration, stage = entry.split("/")
        return iteration, ORDER.index(stage) if stage in ORDER else len(ORDER)

    return {entry: found[entry] for entry in sorted(found, key=when)}


def report_inputs(store: Store, name: str) -> dict[str, Ref]:
    """What the report stage reads, by role, of everything that the run has finished."""
    refs: dict[str, Ref] = {}
    for entry, address in entries(store, name).items():
        iteration, stage = entry.split("/")
        spec = Spec.load(store, address)
        manifest = load_manifest(store, spec)
        if manifest is None:
            continue
        if stage == "data":
            refs["data"] = manifest.ref
        elif stage == "evaluate" and "levels" not in refs:
            refs["levels"] = spec.inputs["levels"]
        if stage in ROLES:
            refs[f"{ROLES[stage]}-{int(iteration[2:])}"] = manifest.ref
    return refs


def status(store: Store, name: str) -> dict[str, Any]:
    """The run as a tree: iterations, their stages, their shards.

    Returns:
        `run`, `generation`, `strategy`, `k`, `iterations` (list of `iteration`, `stages`),
        `planned` (how many iterations it was begun with),
        `stopped` (why it ended early, as `si.stopping.Stop`, or None), `spent` (by all stages,
        each artefact once); of a stage `entry`, `address`, `state` (done or open), `shards`,
        `committed`, `attempts`, `seconds` and `spent` (by all its winning and losing attempts),
        `facts`.
    """
    found = generations(store, name)
    if not found:
        find_run(store, name)
    recipe = load_recipe(store, name, found[-1])
    ledger = Ledger(store)
    spent: dict[str, Spent] = {}
    stages = {
        entry: _stage(store, ledger, entry, address, spent)
        for entry, address in entries(store, name).items()
    }
    tree: dict[str, list[dict[str, Any]]] = {}
    for entry, stage in stages.items():
        tree.setdefault(entry.split("/")[0], []).append(stage)
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
        "iterations": [
            {"iteration": int(number[2:]), "stages": stages} for number, stages in tree.items()
        ],
    }


def ended(tree: dict[str, Any]) -> bool:
    """Whether a run, as `status` says, has a report on all the iterations that it was to have."""
    stages = [stage for iteration in tree["iterations"] for stage in iteration["stages"]]
    if not stages:
        return False
    last = stages[-1]["stage"] == "report" and stages[-1]["state"] == "done"
    far = tree["iterations"][-1]["iteration"] >= tree["planned"]
    return last and (far or bool(tree["stopped"]))


def stopped_at(store: Store, folder: str, stages: dict[str, dict[str, Any]]) -> Stop | None:
    """Where the run has ended before its last iteration, if it has not gone on since."""

    def stands(stop: Stop) -> bool:
        then = stages.get(stop.next, {"state": "open", "committed": stop.committed})
        return (then["state"], then["committed"]) == ("open", stop.committed)

    # Of several at one place, the highest limit was the last to be tried.
    order = [(stop.rule != PATIENCE, stop.limit, stop) for stop in recorded(store, folder)]
    order = [found for found in order if stands(found[-1])]
    return max(order, key=lambda found: found[:2])[-1] if order else None


def _stage(
    store: Store, ledger: Ledger, entry: str, address: str, spent: dict[str, Spent]
) -> dict[str, Any]:
    spec = Spec.load(store, address)
    manifest = load_manifest(store, spec)
    took = ledger.artifact(manifest) if manifest else ledger.work(address)
    spent[address] = took
    return {
        "entry": entry,
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
    }
