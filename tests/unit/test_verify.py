"""The verify stage over `si.answers`, and the pool of processes that may be killed."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import si.verify
from si.answers import Case, Judge, MathPool, Policy, case, judge
from si.answers import pool as pooled
from si.datasets.sources import parts
from si.errors import DataError
from si.records import ROLLOUTS, VERDICTS
from si.stages import verify
from si.stages.job import Job
from si.store.commit import Output, commit_shard, finish, settle
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec, canonical


def test_stage_judges_shard_by_shard(tmp_path: Path) -> None:
    """Shard i of the rollouts becomes shard i of the verdicts, keys in the same order."""
    store = FolderStore(tmp_path / "store")
    queries = [
        {"query_id": q, "family": "f", "question": "?", "answer": a, "answer_kind": "number"}
        | {"difficulty": 1, "rationale": None, "images": []}
        for q, a in (("a", "1"), ("b", "2"))
    ]
    data = _commit(store, Spec("synth", "d", {}, {}, {}), [parts(queries, "train")])
    shards = [
        Output({"rollouts.parquet": pa.Table.from_pylist(rows, ROLLOUTS)}, len(rows))
        for rows in (
            [_rollout("a", 0, "Answer: 1"), _rollout("a", 1, "Answer: 2")],
            [_rollout("b", 0, "no")],
            [],
        )
    ]
    rollouts = _commit(store, Spec("explore", "r", {}, {}, {}, 3), shards)
    inputs = {"data": data, "rollouts": rollouts}
    spec = Spec("verify", "v", {"verify": {"math_timeout": 5.0}}, {}, inputs, 3)
    function = verify.verify(Job(store, spec, tmp_path))
    made = [function(shard) for shard in range(3)]
    assert [output.facts for output in made] == [
        {"samples": 2, "correct": 1},
        {"samples": 1, "correct": 0},
        {"samples": 0, "correct": 0},
    ]
    tables = [output.files["verdicts.parquet"] for output in made]
    assert all(isinstance(table, pa.Table) and table.schema == VERDICTS for table in tables)
    assert tables[0].to_pylist()[1] == {  # type: ignore[union-attr]
        **{"query_id": "a", "round": 1, "prefix_id": "", "sample": 1},
        **{"correct": False, "extracted": "2", "method": "number"},
        **{"kind": "number", "where": "answer", "rule": "number", "reason": "different"},
    }


def test_rollouts_of_other_data_are_refused(tmp_path: Path) -> None:
    """A rollout whose query the data set does not hold is an error that names it."""
    store = FolderStore(tmp_path / "store")
    data = _commit(store, Spec("synth", "d", {}, {}, {}), [parts([], "train")])
    table = pa.Table.from_pylist([_rollout("zz", 0, "Answer: 1")], ROLLOUTS)
    rollouts = _commit(
        store, Spec("explore", "r", {}, {}, {}), [Output({"rollouts.parquet": table}, 1)]
    )
    inputs = {"data": data, "rollouts": rollouts}
    spec = Spec("verify", "v", {"verify": {"math_timeout": 5.0}}, {}, inputs)
    with pytest.raises(DataError, match="not in the data") as caught:
        verify.verify(Job(store, spec, tmp_path))(0)
    assert "zz" in caught.value.detail


def _commit(store: FolderStore, spec: Spec, outputs: list[Output]) -> Ref:
    settle(store, f"{spec.address}/spec.json", canonical(spec.to_json()))
    for shard, output in enumerate(outputs):
        commit_shard(store, spec, shard, output)
    manifest = finish(store, spec)
    assert manifest is not None
    return manifest.ref


def _rollout(query: str, sample: int, text: str) -> dict[str, Any]:
    return {
        **{"query_id": query, "round": 1, "prefix_id": "", "sample": sample, "seed": 0},
        **{"token_ids": [1], "token_ends": [len(text)], "prefix_len": 0, "text": text},
        **{"finish_reason": "stop", "logprob": 0.0},
    }


def test_pool_is_asked_once_per_pair_and_only_when_needed() -> None:
    """No process starts for what the rules decide, and equal questions are asked once."""
    with MathPool(size=1) as fresh:
        judging = Judge(pool=fresh)
        judging.judge_all([case("Answer: 3", "3"), case("red", "blue")])
        assert not fresh._idle and not fresh.memo
        cases = [case("Answer: \\int_0^1 2x dx", "1")] * 50
        assert all(verdict.correct for verdict in judging.judge_all(cases))
        judging.judge_all(cases)
        assert len(fresh.memo) == 1


def test_hanging_answers_are_incorrect_and_harm_no_other() -> None:
    """A sum that never ends costs its time limit, its process and its verdict."""
    endless = "\\sum_{n=1}^{\\infty} \\frac{\\sin n}{n^{3} + \\cos n}"
    with MathPool(timeout=0.5, size=1, memory=256 << 20) as small:
        asked = ["2^{3}", endless, "\\int_0^4 x dx", "10^{9999999999}", "3+5"]
        said = Judge(pool=small).judge_all([case(f"Answer: {x}", "8") for x in asked])
        assert [verdict.correct for verdict in said] == [True, False, True, False, True]
        assert said[1].reason in ("timeout", "not_comparable", "different")
        assert said[3].reason == "too_long"


def test_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without math-verify the stage fails by name: it does not call every formula incorrect."""
    monkeypatch.setattr(pooled.sys, "executable", "/bin/false")
    with pytest.raises(pooled.StageFailed, match="does not start"):
        MathPool(size=1).equal([("x", "y")])


def test_worker_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reads untrusted formulas gets no credentials from the environment."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-leak")
    with MathPool(size=1) as fresh:
        fresh.equal([("x", "y")])
        pid = fresh._idle[0].process.pid
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            assert b"do-not-leak" not in file.read()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_old_import_path_works() -> None:
    """`si.verify` offers what custom verifiers import."""
    assert si.verify.judge("Answer: 12", "12") == judge("Answer: 12", "12")
    assert si.verify.Judgement(True, "12", "mine").correct
    assert si.verify.extract("Answer: 12").text == "12"


def test_a_recipes_settings_reach_the_judge() -> None:
    """Profile, tolerance, units and switched-off rules of a recipe are the judge's policy."""
    settings = verify.Verify(
        profile="lenient", tolerance={"relative": 0.05}, units="ignore", off=["conclusion"]
    )
    policy = verify.policy_of(settings)
    assert policy == Policy("lenient", policy.tolerance, "ignore", off=frozenset({"conclusion"}))
    judging = verify.judging(settings)
    near = Case("The total is 104 m.", ("100 cm",), id="q")
    assert judging([near])[0].correct
