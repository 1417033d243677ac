"""Decisions to end a run early, and what has been spent until then."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si.cli.console import of_journal
from si.clusters.kubernetes.jobs import KubernetesCluster
from si.clusters.kubernetes.runs import begin
from si.config.loading import load
from si.config.place import Place
from si.config.recipe import Recipe, differences
from si.errors import RecipeError, RunBusy
from si.runs.journal import Journal
from si.runs.limits import Budget, LimitReached, Stop, out_of_patience, record, recorded
from si.runs.usage import Ledger, Spent, union
from si.store.commit import Output, announce, commit_shard, finish
from si.store.folder import FolderStore
from si.store.keys import Spec
from tests.unit.fake_cluster import FakeCluster

accuracies = st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.6, 0.6], 1, True),
        ([0.5, 0.6, 0.6], 2, False),
        ([0.5, 0.6, 0.5, 0.6], 2, True),
        ([0.5, 0.4, 0.6, 0.5], 2, False),
    ],
)
def test_patience_by_example(scores, patience, ends):
    """A run ends when so many iterations in a row have not beaten the best before them."""
    assert (out_of_patience(scores, patience) is not None) == ends


@given(accuracies, st.integers(1, 5))
def test_more_patience_never_ends_sooner(scores, patience):
    """Where a run goes on with some patience, it goes on with more."""
    if out_of_patience(scores, patience) is None:
        assert out_of_patience(scores, patience + 1) is None


def test_patience_says_which_is_best():
    """The reason names the best iteration and its accuracy."""
    assert "iteration 1 with 60.0 %" in out_of_patience([0.5, 0.6, 0.6], 1)
    assert "policy 0 with 50.0 %" in out_of_patience([0.5, 0.5], 1)


def test_patience_needs_dev():
    """Patience without dev among the scored splits is refused by name."""
    with pytest.raises(RecipeError, match=r"evaluate\.splits"):
        load(flags={"patience": 2, "evaluate.splits": ["test"]}, environment={})


def test_patience_changes_no_recipe():
    """Another patience is no other recipe under a run's name."""
    assert differences(Recipe(), Recipe(patience=2, iterations=9)) == []


def test_a_limit_in_money_needs_a_price():
    """--max-cost without a price is refused by name."""
    with pytest.raises(RecipeError, match="price_per_gpu_hour"):
        load(flags={"place.max_cost": 5}, environment={})


def test_budgets_by_example():
    """Each limit is reached at its own figure, and the reason names the option."""
    hour = Spent(seconds=7200, gpu_seconds=3600, cpu_seconds=3600)
    place = Place(max_gpu_hours=1.5, max_cost=5, price_per_gpu_hour=2, price_per_cpu_hour=0.5)
    budget = Budget.of(place)
    assert hour.money(2, 0.5) == 2.5 and budget.reached(hour) is None
    rule, limit, words = budget.reached(hour + hour)
    assert (rule, limit) == ("max_gpu_hours", 1.5) and "--max-gpu-hours" in words
    rule, _, words = Budget.of(Place(max_cost=5, price_per_gpu_hour=2)).reached(
        Spent(gpu_seconds=9000)
    )
    assert rule == "max_cost" and words.startswith("5 ")
    assert not Budget() and Budget().reached(hour) is None


def test_a_limit_has_an_exit_code_of_its_own():
    """Who reads exit codes can tell a reached limit from success, failure and retry."""
    stop = Stop("max_cost", 5, 2, "it03/train", 0, "5.1 spent")
    assert LimitReached(stop).exit_code == 6 and "--max-cost" in str(LimitReached(stop))


def test_stops_are_kept_once(tmp_path):
    """The same stop again leaves the record that stands."""
    store = FolderStore(tmp_path)
    stop = Stop("patience", 2, 5, "it06/explore", 0, "no gain")
    for _ in range(2):
        record(store, "runs/a", stop)
    assert list(recorded(store, "runs/a")) == [stop]


@pytest.fixture
def stage(tmp_path):
    """A stage of two shards; a function that makes an attempt on one of them."""
    store = FolderStore(tmp_path)
    spec = Spec("explore", "it01", {}, {}, {}, shards=2)
    announce(store, spec)

    def attempt(shard, **provenance):
        facts = {"tokens": 10}
        commit_shard(store, spec, shard, Output({"a": b"xyz"}, 1, facts, provenance))

    return store, spec, attempt


def test_losers_and_repetitions_are_paid_for(stage):
    """Every attempt that left its provenance counts, whether it won or not."""
    store, spec, attempt = stage
    attempt(0, seconds=2.0, gpus=4, gpu="A100")
    attempt(0, seconds=3.0, gpus=4, gpu="A100")
    attempt(1, seconds=5.0)
    spent = Ledger(store).artifact(finish(store, spec))
    assert (spent.seconds, spent.gpu_seconds, spent.cpu_seconds) == (10.0, 20.0, 5.0)
    assert (spent.attempts, spent.tokens, spent.bytes) == (3, 20, 6)
    assert spent.gpus == {"A100"} and spent.gpu_hours == 20 / 3600
    json.dumps(spent.to_json())


def test_a_ledger_sees_what_is_new(stage):
    """A second look finds later attempts, and reads no record twice."""
    store, spec, attempt = stage
    ledger = Ledger(store)
    attempt(0, seconds=2.0)
    assert ledger.work(spec.address).seconds == 2.0
    for address in ledger.read:
        (store.root / address).unlink()
    attempt(1, seconds=1.0)
    assert ledger.work(spec.address).seconds == 1.0 and len(ledger.read) == 2


def test_wall_time_counts_overlaps_once_and_gaps_never():
    """Workers at the same time count once; a night between two attempts does not."""
    assert union([(0, 10), (2, 5), (8, 12), (100, 101)]) == 13
    assert union([]) == 0


def test_unreadable_provenance_is_no_error(tmp_path):
    """Nothing hangs on what an attempt says of itself."""
    store = FolderStore(tmp_path)
    store.put("pool/x/provenance/00000-a.json", b"{half")
    store.put("pool/x/provenance/00001-b.json", b'{"seconds": 1.5}')
    assert Ledger(store).work("pool/x").seconds == 1.5


# --- on a cluster: what can be told without one; tests/cluster/test_run.py has the rest ----------


class FakeApi:
    """Stands in for the API client: keeps what is created, and records what is deleted."""

    namespace = "lab"

    def __init__(self):
        self.objects, self.deleted = {}, []

    def create(self, body):
        name = body["metadata"]["name"]
        made = name not in self.objects
        standing = self.objects.setdefault(name, json.loads(json.dumps(body)))
        standing["metadata"].setdefault("uid", name)
        return standing, made

    def job(self, name):
        return self.objects.get(name)

    def delete_job(self, name):
        self.deleted.append(name)


LIMIT = Stop("max_cost", 5, 1, "it02/explore", 3, "5.1 spent: --max-cost 5 is reached")


def test_a_limit_removes_the_stages_job(monkeypatch, tmp_path):
    """Pods of a stage that is cut short would go on spending: its Job goes, and the error comes
    through."""
    api, place = FakeApi(), Place(store="s3://bucket")
    owner = {"metadata": {"name": "si-run-a", "uid": "u"}}
    cluster = KubernetesCluster(api, place, "a", 1, owner, FolderStore(tmp_path))

    def spent(*_):
        raise LimitReached(LIMIT)

    monkeypatch.setattr(cluster, "_wait", spent)
    spec = Spec("explore", "it02", {}, {}, {}, shards=8)
    with pytest.raises(LimitReached):
        cluster.run("it02/explore", spec, lambda event: None)
    assert api.deleted == list(api.objects) == ["si-a-it02-explore-1"]


def test_the_journal_tells_a_limit_from_patience():
    """A run that a limit stopped is stopped; one that patience ended is done; begun again, neither
    is said any more."""
    saved = []
    journal = Journal({}, lambda state: saved.append(json.loads(json.dumps(state))))
    journal.start()
    journal.end(report=None, iterations=1, stopped=LIMIT.to_json())
    assert saved[-1]["phase"] == "stopped" and saved[-1]["stopped"]["rule"] == "max_cost"
    journal.start()
    assert saved[-1]["phase"] == "running" and saved[-1]["stopped"] is None
    patient = Stop("patience", 1, 2, "it03/explore", 0, "no gain")
    journal.end(report="pool/report/x", iterations=2, stopped=patient.to_json())
    assert saved[-1]["phase"] == "done" and saved[-1]["stopped"]["iterations"] == 2


def test_status_of_a_cluster_says_why():
    """What the journal says of an early end stands last in the tree."""
    state = {"run": "a", "phase": "stopped", "stopped": LIMIT.to_json(), "stages": []}
    head, _, last = of_journal(state, 0.0)
    assert head == "a: stopped" and last == [LIMIT.words]


def end(api, phase):
    """The newest controller's Job completes, and leaves that phase."""
    name = max(api.of("Job"))
    api.job(name)["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    api.patch_run("si-run-a", {"state": json.dumps({"phase": phase})})
    return name


def test_another_end_needs_another_controller():
    """The same command finds a run that is done, and tries one again that a limit stopped; more
    patience or a higher limit begins a controller, which is refused while one is at work."""
    api, place = FakeCluster(), Place(store="s3://bucket", price_per_gpu_hour=2, max_cost=5)
    recipe = Recipe(patience=1)
    first = begin(api, place, recipe, "a", False)[1]
    assert begin(api, place, recipe, "a", False)[1] == first
    higher = place.model_copy(update={"max_cost": 9})
    with pytest.raises(RunBusy, match="working on") as busy:
        begin(api, higher, recipe, "a", False)
    assert "--patience 1, --max-cost 5" in str(busy.value)
    assert end(api, "stopped") == first
    second = begin(api, place, recipe, "a", False)[1]
    assert second != first and end(api, "done") == second
    assert begin(api, place, recipe, "a", False)[1] == second
    third = begin(api, higher, recipe, "a", False)[1]
    assert third not in (first, second) and end(api, "done") == third
    patient = Recipe(patience=2)
    assert begin(api, higher, patient, "a", False)[1] not in (first, second, third)
    data = api.objects["ConfigMap", "si-run-a"]["data"]
    assert json.loads(data["recipe"])["patience"] == 2
    assert json.loads(data["place"])["max_cost"] == 9
