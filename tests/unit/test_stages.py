"""The table of stages, and the entries of a run."""

import random
import sys
from types import ModuleType

import pyarrow as pa
import pytest

from si.config.recipe import Recipe
from si.entry import STEPS, Entry
from si.errors import RecipeError
from si.stages import STAGES, stage
from si.stages.job import Job
from si.stages.stage import Stage
from si.stages.worker import do_shards
from si.store.commit import Output, load_manifest
from si.store.folder import FolderStore


@pytest.mark.parametrize("name", STAGES)
def test_every_row_has_its_module(name):
    """Each stage's module has settings, parameters, figures and the stage function."""
    row = STAGES[name]
    assert callable(row.function)
    assert issubclass(row.facts, stage.Facts) and issubclass(row.params, stage.Params)
    assert isinstance(row.settings.of(Recipe()).identity(), dict)
    assert isinstance(row.facts().describe(), str)


def test_every_step_has_a_stage_in_the_table():
    """Each step of an iteration is done by a stage of the table, or committed without a worker."""
    assert {step.stage for step in STEPS.values()} - {""} == set(STAGES)


def test_adding_a_stage_is_a_module_and_a_row(tmp_path, monkeypatch):
    """A new stage needs a module with four names and a row, and then computes like the others."""

    class Settings(stage.Settings):
        seed: int = 0

    class Params(stage.Params):
        words: int

    class Facts(stage.Facts):
        words: int = 0

        def describe(self):
            return f"{self.words} words"

    def count(job: Job[Settings, Params]):
        def shard(number):
            table = pa.table({"word": [str(job.settings.seed)] * job.params.words})
            return Output({"words.parquet": table}, len(table), Facts(words=len(table)).identity())

        return shard

    module = ModuleType("si.stages.count")
    module.__dict__.update(Settings=Settings, Params=Params, Facts=Facts, count=count)
    monkeypatch.setitem(sys.modules, "si.stages.count", module)
    monkeypatch.setitem(STAGES, "count", Stage("count", schema=3, sharded=True))
    row, store = STAGES["count"], FolderStore(tmp_path / "store")
    spec = row.spec("made", row.settings.of(Recipe(seed=5)), row.params(words=4), {}, shards=2)
    assert (spec.schema, spec.settings, spec.params) == (3, {"seed": 5}, {"words": 4})
    from si.store.commit import announce

    announce(store, spec)
    do_shards(store, Job(store, spec, tmp_path), row.function, 0, 1)
    manifest = load_manifest(store, spec)
    assert manifest is not None
    assert row.facts.model_validate(manifest.facts).describe() == "8 words"


def test_settings_of_another_version_are_refused(tmp_path):
    """A worker that does not know a setting of its spec says so, and how to go on."""
    row = STAGES["levels"]
    spec = row.spec("x", row.settings(), row.params(), {})
    spec = type(spec)("levels", "x", {"novel": 1}, spec.params, {})
    with pytest.raises(RecipeError, match="cannot use the settings") as refused:
        _ = Job(FolderStore(tmp_path), spec, tmp_path).settings
    assert "another version" in str(refused.value)


def test_entries_sort_as_they_happen():
    """Entries sort by iteration and step, past the hundredth iteration, and read back."""
    right = [Entry(0, "data"), Entry(0, "evaluate"), Entry(1, "explore"), Entry(1, "verify-2")]
    right += [Entry(1, "train"), Entry(2, "explore"), Entry(99, "report"), Entry(100, "explore")]
    mixed = random.Random(0).sample(right, len(right))
    assert sorted(mixed) == right
    assert [Entry.parse(str(entry)) for entry in right] == right
    assert Entry(1, "verify-2").stage == "verify" and Entry(3, "report-2").stage == "report"
    for text in ("it1/explore", "it01", "01/explore", "it01/", "it01/Explore", "it01/a/b"):
        with pytest.raises(ValueError, match="not an entry"):
            Entry.parse(text)
