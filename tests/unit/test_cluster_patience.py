"""An API server that is restarting, busy or away for a while costs a run nothing but time."""

import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ProtocolError

from si.cli import control
from si.clusters.kubernetes import client as clients
from si.clusters.kubernetes import watch
from si.clusters.kubernetes.client import Client, ClusterUnavailable, pause
from si.clusters.kubernetes.runs import begin
from si.clusters.kubernetes.watch import DENIALS, Mirror
from si.config.place import Place
from si.config.recipe import Recipe
from si.errors import StageFailed, StoreUnavailable
from si.runs.journal import FUTILE, Journal
from tests.unit.fake_cluster import FakeCluster


@pytest.fixture
def clock(monkeypatch):
    """Sleeping moves this clock; the list of pauses."""
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(clients, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    return slept


def asking(*answers, patience=300.0):
    """A client, and a request that gives these answers one after the other, the last for ever."""
    made = Client.__new__(Client)
    made.namespace, made.patience, made.plain = "lab", patience, lambda thing: thing
    left = list(answers)

    def read_thing():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return made, read_thing


@pytest.mark.parametrize(
    "error",
    [ApiException(status=status) for status in (0, 408, 429, 500, 502, 503, 504)]
    + [ProtocolError("reset"), ConnectionRefusedError("refused")],
    ids=lambda error: str(getattr(error, "status", type(error).__name__)),
)
def test_transient_errors_are_retried(clock, error):
    """For as long as the client is patient, with growing pauses."""
    client, ask = asking(error, error, error, {"kind": "Thing"})
    assert client.call(ask) == {"kind": "Thing"}
    assert len(clock) == 3 and clock == sorted(clock)


def test_patience_ends(clock):
    """After its minutes the error comes through, in words."""
    client, ask = asking(ApiException(status=503, reason="Service Unavailable"), patience=120)
    with pytest.raises(ClusterUnavailable, match=r"denied the request: read thing .*503"):
        client.call(ask)
    assert 60 < sum(clock) <= 120
    with pytest.raises(ClusterUnavailable):
        client.call(ask, patience=0)
    assert sum(clock) <= 120


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_will_not_change_is_not_retried(clock, status):
    """A refusal is an error at once; 404 and 409 are the caller's."""
    client, ask = asking(ApiException(status=status))
    with pytest.raises(ApiException if status in (404, 409) else ClusterUnavailable):
        client.call(ask)
    assert clock == []


def test_a_server_may_ask_for_a_pause(clock):
    """Retry-After is kept."""
    error = ApiException(status=429)
    error.headers = {"Retry-After": "7"}
    client, ask = asking(error, {})
    client.call(ask)
    assert 7 <= clock[0] <= 8


@given(st.integers(0, 5000))
def test_pauses_grow_and_are_bounded(failures):
    """Whatever happens they are between a quarter of a second and half a minute."""
    assert 0.25 <= pause(failures) <= 30
    assert failures < 7 or pause(failures) >= 15


class Informer:
    """Stands for the client's informer, which asks again at once however often it fails."""

    def __init__(self, request, *_):
        self.request, self.handlers = request, {}
        self.cache = SimpleNamespace(list=list)

    def add_event_handler(self, kind, handler):
        self.handlers[kind] = handler

    def start(self): ...

    def stop(self): ...


@pytest.fixture
def mirror(monkeypatch):
    """A mirror whose requests fail with an error; its pauses are recorded instead of waited."""

    def make(error):
        monkeypatch.setattr(watch, "SharedInformer", Informer)

        def method(**_):
            if error[0]:
                raise error[0]
            return "answer"

        client = SimpleNamespace(namespace="lab", plain=lambda thing: thing)
        found = Mirror(client, method, threading.Event())
        slept = []
        monkeypatch.setattr(found.stopping, "wait", slept.append)
        return found, slept

    return make


def ask(found, times):
    for _ in range(times):
        try:
            found.informer.request(watch=True)
        except (ApiException, OSError) as error:
            found.informer.handlers["ERROR"](error)


def test_a_watch_reconnects_with_pauses(mirror):
    """While the API is away for ten minutes a watch tries some twenty times, not thousands; the
    first success ends the pauses."""
    error = [ConnectionRefusedError()]
    found, slept = mirror(error)
    attempts = 0
    while sum(slept) < 600:
        ask(found, 1)
        attempts += 1
    assert 20 <= attempts <= 50
    assert found.all() == []
    error[0] = None
    ask(found, 1)
    before = len(slept)
    ask(found, 5)
    assert len(slept) == before


def test_a_watch_that_stays_denied_is_an_error(mirror):
    """An API server that is starting denies some requests; one that denies every request means
    it."""
    error = [ApiException(status=403, reason="Forbidden")]
    found, _ = mirror(error)
    ask(found, DENIALS - 1)
    assert found.all() == [] and not found.changed.is_set()
    ask(found, 1)
    assert found.changed.is_set()
    with pytest.raises(ClusterUnavailable, match="denied a watch"):
        found.all()


# --- the controller ---------------------------------------------------------------------------


def journal():
    saved = []
    made = Journal({}, saved.append)
    made.start()
    return made


def test_an_error_that_may_pass_is_not_a_failed_run():
    """The controller's Job starts another; only after errors without any progress it gives up."""
    made, error = journal(), StoreUnavailable("The bucket is away")
    for _ in range(FUTILE):
        control._record(made, error, "pod")
        assert (made.state["phase"], error.exit_code) == ("retrying", 4)
    made.hear({"event": "shards", "entry": "it01/explore", "committed": 1})
    control._record(made, error, "pod")
    assert made.state["phase"] == "retrying" and made.state["futile"] == 1
    for _ in range(FUTILE):
        control._record(made, error, "pod")
    assert (made.state["phase"], error.exit_code) == ("failed", 1)
    assert made.state["error"]["headline"] == "The bucket is away"


def test_a_stage_that_failed_is_a_failed_run():
    """Its Job has used its retries."""
    made, error = journal(), StageFailed("It failed", exit_code=4)
    control._record(made, error, "pod")
    assert (made.state["phase"], error.exit_code) == ("failed", 1)


def test_a_journal_that_cannot_be_written_does_not_end_the_loop(monkeypatch, capsys):
    """While the run works, a write that fails is reported, and the next one makes it good. The last
    one has nothing after it, so that its error counts."""
    cluster = FakeCluster()
    begin(cluster, Place(store="s3://bucket"), Recipe(), "r", False)
    down, writes = [True], []

    def patch_run(name, data, patience=None):
        writes.append(patience)
        if down[0]:
            raise ClusterUnavailable("The cluster's API is unreachable")
        FakeCluster.patch_run(cluster, name, data)

    class Loop:
        """Stands for the loop: it sends one event and ends."""

        stopped, done = None, 1

        def __init__(self, *words, **_):
            self.hear = words[5]

    def conclude(run):
        run.hear({"event": "begin", "entry": "it01/explore", "shards": 2})
        down[0] = end_is_down
        return None

    class Nothing:
        def __init__(self, *_): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

    cluster.patch_run = patch_run
    monkeypatch.setenv("POD_NAME", "si-r-controller-1-x")
    for name, stand in (
        ("Client", lambda: cluster), ("Lease", Nothing), ("KubernetesCluster", Nothing),
        ("Run", Loop), ("conclude", conclude), ("open_store", lambda _: SimpleNamespace(url="s3")),
        ("ensure", lambda _: None), ("begin", lambda *_: 1),
        ("match_steps", lambda _, recipe: recipe),
    ):  # fmt: skip
        monkeypatch.setattr(control, name, stand)
    end_is_down = False
    control.control("r", "si")
    assert "is not written" in capsys.readouterr().err
    assert '"phase": "done"' in cluster.objects["ConfigMap", "si-run-r"]["data"]["state"]
    assert writes[-1] is None and set(writes[:-1]) == {control.JOURNAL_PATIENCE}
    down[0] = end_is_down = True
    with pytest.raises(ClusterUnavailable):
        control.control("r", "si")
