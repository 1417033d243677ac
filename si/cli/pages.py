"""A run's report as files: copied out of the store, with what is not part of the run's content."""

from pathlib import Path
from typing import Any

from si.clusters.local import local_folder
from si.config.place import Place
from si.costs.actual import costs
from si.errors import OutputError
from si.machine.files import create_folder, write_files
from si.report.page import Section, extended
from si.report.tables import Table, number
from si.runs.status import status
from si.runs.usage import made_by
from si.stages import STAGES
from si.store.artifact import Artifact
from si.store.port import Store


def write(
    where: Store,
    name: str,
    artifact: Artifact,
    place: Place,
    out: Path | None = None,
    force: bool = False,
) -> Path:
    """Copy a report out of the store: the page, and Markdown and JSON beside it.

    The copy also shows what is not part of the run's content, and so in no artefact: its name, the
    date, times, costs, and why the run ended early.

    Args:
        out: the page's path; by default reports/RUN.html in the store's folder, where an older
            copy is replaced.
        force: replace files beside or at `out` that exist.

    Returns:
        The page's absolute path.

    Raises:
        OutputError, StoreUnavailable: if a file cannot be written.
    """
    if out is None:
        out, force = local_folder(where) / "reports" / f"{name}.html", True
        create_folder(out.parent)
    tree = status(where, name)
    page, *others = report_files(out)
    whole = extended(
        artifact.read("report.html").decode(),
        [spending(where, tree, place), times(tree)],
        name,
        about(where, artifact),
    )
    files = {path: artifact.read(f"report{path.suffix}") for path in others}
    write_files({page: whole.encode()} | files, force)
    return page.resolve()


def report_files(page: Path) -> tuple[Path, Path, Path]:
    """The files of a report: the page, Markdown and JSON.

    Raises:
        OutputError: if the page's name is that of another of the three.
    """
    if page.suffix in (".md", ".json"):
        raise OutputError(
            f"The report's page cannot be named {page.name}",
            "the report's Markdown and JSON are written beside it under that name",
            "Name an HTML file: --out FILE.html",
        )
    return page, page.with_suffix(".md"), page.with_suffix(".json")


def spending(where: Store, tree: dict[str, Any], place: Place) -> Section:
    """Estimate against actual, and why the run ended early if it did."""
    found, stopped = costs(where, tree["run"], place, tree), tree["stopped"]
    said = f"{found.words} " + (f"The run ended early. {stopped['words']}." if stopped else "")
    return Section("costs", "Estimate and actual", said.strip(), tables=[found.table])


def about(where: Store, artifact: Artifact) -> list[tuple[str, str]]:
    """When the report was made, and with which version."""
    made = made_by(where, artifact.manifest)
    when = str(made.get("finished", "")).replace("T", " ").replace("Z", " UTC")
    known = (("Date", when), ("Version", f"si-ctl {made['si_ctl']}" if "si_ctl" in made else ""))
    return [(name, value) for name, value in known if value]


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
