"""The verifier: what is found, what is equal, and what hostile text cannot do."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from si.datasets.sources import parts
from si.errors import DataError
from si.records import ROLLOUTS, VERDICTS
from si.stages import verify
from si.stages.job import Job
from si.stages.verify import (
    Judgement,
    MathPool,
    choice,
    extract,
    judge,
    judge_all,
    normalise,
    number,
    said,
)
from si.store.commit import Output, commit_shard, finish, settle
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec, canonical


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(timeout=5, size=1) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "answer", "where"),
    [
        ("+ red 3 = 3\nAnswer: 3", "3", "answer"),
        ("Answer: 3\nNo, wait.\nAnswer: 4\n", "4", "answer"),
        ("**Answer:** (B) a dog", "(B) a dog", "answer"),
        ("So the answer is 12. I took 3 from 15.", "12", "answer"),
        ("The final answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$.", "answer"),
        ("ANSWER:\n\n  7 cm", "7 cm", "answer"),
        ("Answer: 5\nlet me check\nAnswer:", "5", "answer"),
        ("It is \\boxed{\\frac{1}{2}} as shown", "\\frac{1}{2}", "boxed"),
        ("Answer: \\boxed{5}", "5", "boxed"),
        ("\\boxed{4}, no: the answer is 5", "5", "answer"),
        ("\\boxed{\\frac{1}{2", "\\frac{1}{2", "boxed"),
        ("The radius is 3.\nThus the area is $9\\pi$ cm.", "9\\pi", "span"),
        ("we compute\n42\n\n", "42", "line"),
        ("two\r\nlines", "lines", "line"),
        ("Answer:", None, "nothing"),
        (" \n\t", None, "nothing"),
        ("", None, "nothing"),
    ],
)
def test_extract_says_what_and_where(text: str, answer: str | None, where: str) -> None:
    """The last mark with something behind it counts, then the last line or its formula."""
    assert extract(text) == (answer, where)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-12", -12),
        ("+3", 3),
        ("\u22127", -7),
        ("1,234,567.5", Fraction("1234567.5")),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("3/4", Fraction(3, 4)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("1.5e3", 1500),
        ("$12.50", Fraction(25, 2)),
        ("$12$ cm", 12),
        ("12\\,\\text{cm}^2", 12),
        ("90^\\circ", 90),
        ("45°", 45),
        ("9 square units", 9),
        ("１２", 12),
        ("1,23", None),
        ("12 or 13", None),
        ("12 thousand", None),
        ("12\\pi", None),
        ("3x", None),
        ("1/0", None),
        ("1e9999", None),
        ("9^9", None),
        ("x = 5", None),
        ("twelve", None),
        ("", None),
    ],
)
def test_number_reads_plain_numbers_exactly(text: str, value: Fraction | int | None) -> None:
    """A plain number is read as an exact fraction, and anything more than that is no number."""
    found = number(normalise(text))
    assert (found and found.value) == value


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B)", "B"),
        ("B. a dog", "B"),
        ("(B) Vitamin C", "B"),
        ("Option B", "B"),
        ("\\textbf{(B)}", "B"),
        ("( \\text{C} )", "C"),
        ("A dog", None),
        ("(A) or (B)", None),
        ("A) 5 B) 6", None),
        ("Berlin", None),
    ],
)
def test_choice_needs_one_letter(text: str, letter: str | None) -> None:
    """A choice is one letter, set off as one; an article or two letters are none."""
    found = choice(normalise(text))
    assert (found and found[0]) == letter


@pytest.mark.parametrize(
    ("text", "answer", "kind", "correct", "method"),
    [
        ("Answer: 12", "12", "number", True, "exact"),
        ("Answer: 12.0", "12", "number", True, "number"),
        ("Answer: 12.0000000001", "12", "number", False, "number"),
        ("Answer: 0.333333", "1/3", "number", False, "number"),
        ("Answer: 6/8", "3/4", "number", True, "number"),
        ("Answer: 50%", "0.5", "number", True, "number"),
        ("Answer: 50", "50%", "number", True, "number"),
        ("Answer: 50%", "25%", "number", False, "number"),
        ("Answer: 12 cm", "12", "number", True, "number"),
        ("Answer: 12", "12 cm", "number", True, "number"),
        ("Answer: 12 m", "12 cm", "number", False, "number"),
        ("Answer: 12 cm", "12 cm^2", "number", False, "number"),
        ("Answer: 12 square centimeters", "12 cm^2", "number", True, "number"),
        ("Answer: 12 square units", "12", "number", True, "number"),
        ("Answer: 90 degrees", "90°", "number", True, "number"),
        ("Answer: $12", "12 dollars", "number", True, "number"),
        ("Answer: 8 cm³", "8 cubic cm", "number", True, "number"),
        ("Answer: -12", "12", "number", False, "number"),
        ("Answer: Red!", "red", "text", True, "exact"),
        ("Answer: der", "red", "text", False, "none"),
        ("Answer: (B) a dog", "B", "choice", True, "choice"),
        ("Answer: C", "B", "choice", False, "choice"),
        ("Answer: (B) a dog", "a dog", "choice", True, "choice"),
        ("Answer: a dog", "B", "choice", False, "none"),
        ("Answer: (b)", "B", "text", True, "choice"),
        ("- red 3 = 12", "12", "number", False, "none"),
        ("no idea", "12", "number", False, "none"),
        ("", "12", "number", False, "none"),
        ("Answer: ...", "12", "number", False, "none"),
    ],
)
def test_fast_path(text: str, answer: str, kind: str, correct: bool, method: str) -> None:
    """Plain answers are decided without math-verify, and the method says how."""
    verdict = judge(text, answer, kind)
    assert (verdict.correct, verdict.method) == (correct, method)


@pytest.mark.parametrize(
    ("given", "answer", "correct"),
    [
        ("\\sqrt{3}/2", "\\frac{\\sqrt{3}}{2}", True),
        ("sqrt(3)/2", "\\frac{\\sqrt{3}}{2}", True),
        ("12 * pi", "12\\pi", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x = 12", "12", True),
        ("14 - 2", "12", True),
        ("\\{2, 1\\}", "\\{1, 2\\}", True),
        ("2^{10}", "1024", True),
        ("12, 13", "12", False),
        ("13\\pi", "12\\pi", False),
        ("between 10 and 12", "12", False),
        ("\\frac{1}{2", "\\frac{1}{3}", False),
    ],
)
def test_math(given: str, answer: str, correct: bool, pool: MathPool) -> None:
    """What is no plain number is compared by math-verify as mathematics."""
    assert judge(f"Answer: {given}", answer, "number", pool) == (correct, normalise(given), "math")


def test_pool_is_asked_once_per_pair_and_only_when_needed() -> None:
    """No process starts for plain answers, and equal questions are asked once."""
    with MathPool(size=1) as fresh:
        judge_all([("Answer: 3", "3", "number"), ("red", "blue", "text")], fresh)
        assert not fresh._idle and not fresh.memo
        cases = [("Answer: 2^{1}", "2", "number")] * 50
        assert all(verdict.correct for verdict in judge_all(cases, fresh))
        judge_all(cases, fresh)
        assert len(fresh.memo) == 1


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


def test_hanging_and_hungry_answers_are_wrong_and_harm_nobody() -> None:
    """A tower of powers costs its time limit, its process and its verdict: no other's."""
    with MathPool(timeout=0.5, size=1, memory=256 << 20) as small:
        tower = "9^{9^{9^9}}"
        sane = "2^{3}"
        said = judge_all(
            [(f"Answer: {x}", "8", "number") for x in (sane, tower, "10^{9999999999}", "3+5")],
            small,
        )
        assert [verdict.correct for verdict in said] == [True, False, False, True]
        assert said[1] == Judgement(False, tower, "timeout")


def test_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without math-verify the stage fails by name: it does not call every formula wrong."""
    monkeypatch.setattr(verify.sys, "executable", "/bin/false")
    with pytest.raises(verify.StageFailed, match="does not start"):
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


@pytest.mark.parametrize(
    "text",
    [
        "x" * 3_000_000,
        "Answer: " + "9" * 3_000_000,
        "Answer: " * 300_000,
        "\\boxed{" * 300_000,
        "$" * 1_000_000,
        "Answer: " + "{" * 500,
        "Answer: " + "\\(" * 250,
        "Answer: 1\x00\x1b[2J\udc80\ud800",
        "\n" * 1_000_000 + "answer is",
        "Answer: " + "1," * 250,
        "Answer: " + " /" * 250,
    ],
    ids=lambda text: repr(text[:12]),
)
@pytest.mark.timeout(60)  # milliseconds each; anything quadratic would take minutes
def test_hostile_text_is_cheap(text: str) -> None:
    """Megabytes, unbalanced braces and control characters end soon, and are wrong."""
    verdict = judge(text, "12", "number")
    assert not verdict.correct
    assert len(verdict.extracted or "") <= verify.LONGEST
    (verdict.extracted or "").encode()


_PIECES = st.sampled_from(
    ["Answer:", "answer is", "\\boxed{", "}", "$", "\\(", "\\frac", "9^", "1,000", "(B)", "%", "\n"]
)
_ANY = st.text(st.characters(codec=None, categories=None), max_size=60)


@settings(max_examples=300, deadline=2000)
@given(st.lists(_PIECES | _ANY, max_size=12).map("".join), _ANY, st.sampled_from(["number", "x"]))
def test_any_text_gets_a_verdict(text: str, answer: str, kind: str) -> None:
    """Whatever the text, lone surrogates included, there is a verdict that can be stored."""
    verdict = judge(text, answer, kind)
    (verdict.extracted or "").encode()
    assert verdict.extracted is not None or not verdict.correct


@settings(max_examples=40, deadline=None)
@given(st.lists(_PIECES | st.sampled_from("x23+-^!{}=<_ \\"), min_size=1, max_size=15).map("".join))
def test_any_formula_gets_a_verdict(pool: MathPool, text: str) -> None:
    """Random scraps of LaTeX never raise and never hang through the pool."""
    verdict = judge("Answer: " + text, "x^2", "text", pool)
    assert verdict.method in {"exact", "number", "math", "timeout", "none"}


@settings(max_examples=100)
@given(st.fractions(), st.integers(1, 9))
def test_equal_numbers_are_equal_however_written(value: Fraction, scale: int) -> None:
    """A fraction equals itself expanded and in LaTeX, and nothing beside it."""
    a, b = value.numerator * scale, value.denominator * scale
    assert judge(f"Answer: {a}/{b}", str(value), "number").correct
    sign = "-" if a < 0 else ""
    assert judge(f"Answer: ${sign}\\frac{{{abs(a)}}}{{{b}}}$", str(value), "number").correct
    assert not judge(f"Answer: {a + 1}/{b}", str(value), "number").correct


def test_an_answer_cut_by_the_token_limit_is_no_answer() -> None:
    """A response that met its token limit is judged by its whole lines only."""
    assert judge(said("Step 1: 12\nAnswer: 1", "length"), "1", "number").correct is False
    assert judge(said("Step 1: 12\nAnswer: 1", "stop"), "1", "number").correct is True
    assert judge(said("Answer: 12\nand so", "length"), "12", "number").correct is True
    assert said("Answer: 1", "length") == ""
