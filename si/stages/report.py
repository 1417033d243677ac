"""Report: one page about a run, from everything that it committed.

report.html is one file that asks nobody for anything. It has one script, for looking through
responses; without it everything else is there. report.json has all numbers; report.md has the
words and tables. What a model or a data set wrote is text in it, whatever it says; images are
decoded and encoded again before they are let in.
"""

from typing import Any

from si.config.recipe import UNBOUND, Recipe, Report
from si.report.findings import to_json
from si.report.lineage import lineage
from si.report.page import markdown, page
from si.report.run_tables import intervals, words
from si.report.samples import gather
from si.report.summary import collect
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.store.commit import Output
from si.store.keys import canonical

WITHOUT_BROWSER = 500  # responses among which a few are picked, if the browser shows none


class Settings(Recipe):
    """The whole recipe, less what only says how far a run goes and what it is called."""

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        return cls.model_validate(recipe.model_dump())

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in super().identity().items() if name not in UNBOUND}


class Params(stage.Params):
    """How many iterations the report is about."""

    iterations: int


class Facts(stage.Facts):
    """A report has no figures of its own."""


def report(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: everything of a run to report.html, report.md and report.json."""

    def shard(_: int) -> Output:
        # The page shows the settings as they were stored.
        refs, settings = job.spec.inputs, dict(job.spec.settings)
        run = collect(job.store, refs)
        room = Report.model_validate(settings.get("report", {}))
        shown = gather(
            job.store,
            refs,
            job.scratch,
            settings.get("seed", 0),
            room.samples or WITHOUT_BROWSER,
            room.text_mb,
            room.images_mb,
        )
        nodes = lineage(job.store, refs)
        head = {
            "strategy": settings.get("strategy", run.strategy),
            "words": dict(words(run)),
            "intervals": intervals(run),
        }
        return Output(
            files={
                "report.html": page(run, settings, room, shown, nodes).encode(),
                "report.md": markdown(run, settings).encode(),
                "report.json": canonical({**to_json(run), **head, "recipe": settings}),
            },
            rows=len(run.iterations),
        )

    return shard
