"""The controller's journal: what a run's object says of the run."""

import json

from si.errors import DataError
from si.runs.journal import LAST_FAILURES, Journal


def journal(state=None):
    saved = []
    return Journal(state or {}, lambda state: saved.append(json.loads(json.dumps(state)))), saved


def test_a_stage_from_begin_to_done():
    """A stage begins, its shards come in, it waits, it fails, it is done; each is saved."""
    made, saved = journal()
    made.start(generation=1, controller="c-1")
    at = {"entry": "it01/explore"}
    made.hear({"event": "begin", "shards": 4, **at})
    made.hear({"event": "job", "attempt": 1, **at})
    made.hear({"event": "shards", "committed": 2, **at})
    made.hear({"event": "problem", "headline": "h", "detail": "d", "ways_out": ["w"], **at})
    assert saved[-1]["stages"][0]["problem"]["headline"] == "h"
    made.hear({"event": "solved", **at})
    made.hear({"event": "failure", "pod": "p", "why": "was killed", **at})
    made.hear({"event": "done", "facts": {"samples": 8, "tokens": 99}, **at})
    made.end(report="pool/report/x")
    (stage,) = saved[-1]["stages"]
    assert stage["state"] == "done"
    assert stage["committed"] == stage["shards"] == 4
    assert stage["words"] == "8 samples, 99 tokens"
    assert stage["problem"] is None
    assert stage["failed"] == 1
    assert stage["failures"][0]["why"] == "was killed"
    assert saved[-1]["phase"] == "done"


def test_a_successor_goes_on():
    """A controller that begins again keeps what is known, and counts its starts."""
    made, saved = journal()
    made.start(generation=1, controller="c-1")
    made.hear({"event": "begin", "entry": "it01/verify", "shards": 1})
    facts = {"correct": 1, "samples": 2}
    made.hear({"event": "done", "entry": "it01/verify", "facts": facts})
    before = saved[-1]["stages"]
    again, saved = journal(saved[-1])
    again.start(generation=1, controller="c-2")
    again.hear({"event": "done", "entry": "it01/verify", "facts": facts})
    assert saved[-1]["stages"] == before
    assert saved[-1]["starts"] == 2


def test_an_error_is_kept():
    """A run that fails says why, for whoever attaches later."""
    made, saved = journal()
    made.start()
    made.end(DataError("The data end", "here", "Use less"))
    assert saved[-1]["phase"] == "failed"
    assert saved[-1]["error"] == {
        "headline": "The data end",
        "detail": "here",
        "ways_out": ["Use less"],
        "exit_code": 3,
    }


def test_many_failures_stay_small():
    """Only the last failures are kept, since a run's object has room for a megabyte; all count."""
    made, saved = journal()
    for number in range(50):
        made.hear({"event": "failure", "entry": "it01/explore", "pod": f"p{number}", "why": "x"})
    (stage,) = saved[-1]["stages"]
    assert stage["failed"] == 50
    assert [each["pod"] for each in stage["failures"]] == [
        f"p{number}" for number in range(50 - LAST_FAILURES, 50)
    ]
