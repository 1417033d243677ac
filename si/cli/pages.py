"""A run's report as files: copied out of the store, with what is not part of the run's content."""

from pathlib import Path
from typing import Any

from si.config.place import Place
from si.costs.actual import costs
from si.report.tables import Table, number
from si.runs.status import status
from si.stages import STAGES
from si.stages.report import Section, extended
from si.store.artifact import Artifact
from si.store.port import Store


def write(where: Store, name: str, artifact: Artifact, page: Path, place: Place) -> Path:
    """Copy a report out of the store: the page, and Markdown and JSON beside it.

    The copy also shows what is no part of the run's content, and so in no artefact: times, costs,
    and why the run ended early.
    """
    tree = status(where, name)
    page.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("md", "json"):
        page.with_suffix(f".{suffix}").write_bytes(artifact.read(f"report.{suffix}"))
    whole = artifact.read("report.html").decode()
    page.write_text(extended(whole, [times(tree), spending(where, tree, place)]))
    return page.resolve()


def spending(where: Store, tree: dict[str, Any], place: Place) -> Section:
    """Estimate against actual, and why the run ended early if it did."""
    found, stopped = costs(where, tree["run"], place, tree), tree["stopped"]
    said = f"{found.words} " + (f"The run ended early. {stopped['words']}." if stopped else "")
    return Section("costs", "What it cost", said.strip(), tables=[found.table])


def times(tree: dict[str, Any]) -> Section:
    """Seconds of work by iteration and stage, repeated attempts included, from provenance."""
    iterations = tree["iterations"]
    took = {s["stage"] for it in iterations for s in it["stages"] if s["seconds"]}
    stages = [stage for stage in ("synth", "import", "fetch", *STAGES) if stage in took]
    rows = []
    for it in iterations:
        spent = dict.fromkeys(stages, 0.0)
        for stage in it["stages"]:
            if stage["stage"] in spent:
                spent[stage["stage"]] += stage["seconds"]
        cells = (number(spent[stage] or None, 1) for stage in stages)
        rows.append([str(it["iteration"]), *cells, number(sum(spent.values()), 1)])
    return Section(
        "times",
        "Times",
        "Seconds of work, summed over workers and attempts. A stage that this run shares with an "
        "earlier one was not done again; its time is the earlier one's.",
        tables=[Table("Seconds by iteration and stage", ["iteration", *stages, "all"], rows)],
    )
