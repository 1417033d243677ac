"""Diagnose: every tool's logs are understood, figures are right, and nothing is made up."""

import csv
import gzip
import json
import re
import subprocess
import sys
from itertools import combinations
from math import comb
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import si
from si.api import rollouts
from si.cli import app
from si.errors import DataError, RecipeError, RunMissing, SiError
from si.records import LEVELS, level
from si.rollouts.diagnose import diagnose, pass_at_k
from si.rollouts.table import Groups, group, judge
from si.strategies import by_name
from tests.browser.made_up import HOSTILE
from tests.unit.rollout_files import ANSWERS, LAYOUTS, RIGHT, K, lines, plain, verl


def read(source: Any, **more: Any) -> tuple[Any, Groups]:
    found = rollouts(source, **more)
    return found, group(found, judge(found).right)


def rows(counts: dict[str, tuple[int, int]], step: int = 0) -> list[dict[str, Any]]:
    """Samples of queries with n and k each."""
    return [
        {"query_id": q, "reward": int(j < k), "response": "a\nb", "prompt": q, "step": step}
        for q, (n, k) in counts.items()
        for j in range(n)
    ]


# --- recognition ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_recognises(name: str, tmp_path: Path) -> None:
    """A file in that tool's layout is told from its columns, and every sample counts where it
    belongs."""
    written = LAYOUTS[name]
    found, groups = read(written.write(tmp_path / name))
    assert found.source.layout.name == written.layout
    assert found.source.bad == []
    assert len(found.ids) == len(ANSWERS)
    assert groups.n.tolist() == [K] * len(ANSWERS) * len(written.steps)
    assert groups.right.tolist() == [k for step in written.steps for k in RIGHT[step]]
    if len(written.steps) > 1:
        assert np.unique(groups.step).tolist() == list(written.steps)
    assert found.length is not None and found.length.min() > 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_prompts_and_responses_are_found(name: str, tmp_path: Path) -> None:
    """The second reading gives each sample's own texts, in the order of the first."""
    found, _ = read(LAYOUTS[name].write(tmp_path / name))
    at = 0
    for here, table in found.batches(("prompt", "response")):
        assert here.start == at and here.stop - here.start == len(table)
        at = here.stop
        assert table["query_id"].to_pylist() == [found.ids[i].as_py() for i in found.query[here]]
        for row in table.to_pylist():
            assert "Answer: " in row["response"]
            assert "?" in row["prompt"]
    assert at == len(found.query)


def test_order_of_files_is_that_of_their_numbers(tmp_path: Path) -> None:
    """2.jsonl comes before 10.jsonl, and a step is taken from a name where no column has it."""
    for step in (10, 2):
        lines(
            tmp_path / f"step_{step}.jsonl", [{"uid": "a", "reward": 1}, {"uid": "a", "reward": 0}]
        )
    found, groups = read(tmp_path)
    assert [Path(name).name for name in found.source.files] == ["step_2.jsonl", "step_10.jsonl"]
    assert groups.step.tolist() == [2, 10]


def test_other_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    """Results and settings that lie beside the logs are no rollouts, and it is said how many."""
    folder = LAYOUTS["lm_eval"].write(tmp_path)
    (folder / "a.json").write_text('{"results": {"gsm8k": {"exact_match": 0.5}}}')
    lines(folder / "metrics.jsonl", [{"loss": 1.0, "step": 1}])
    found, groups = read(folder)
    assert groups.right.tolist() == list(RIGHT[1])
    assert "2 other files have" in " ".join(found.source.notes)


def test_lm_eval_of_other_versions() -> None:
    """Arguments in a list, and log-likelihoods in place of responses, are understood."""
    row = {
        "doc_id": 1,
        "arguments": [["Which?", " A"], ["Which?", " B"]],
        "resps": [[[-1.5, False]], [[-2.5, False]]],
        "filtered_resps": [[-1.5, False], [-2.5, False]],
        "metrics": ["acc", "acc_norm"],
        "acc": 1.0,
        "acc_norm": 0.0,
    }
    found, groups = read([row, row | {"acc": 0.0}])
    assert groups.right.tolist() == [1] and found.length is None
    ((_, table),) = found.batches(("prompt",))
    assert table["prompt"].to_pylist() == ["Which?"] * 2


def test_our_own_map_goes_before(tmp_path: Path) -> None:
    """--map names columns, or paths into them, before anything that is recognised."""
    path = tmp_path / "odd.jsonl"
    made = [{"extra": {"uid": q}, "reward": 0, "points": p} for q in "ab" for p in (0, 3)]
    lines(path, made)
    with pytest.raises(DataError):
        rollouts(path)
    found, groups = read(path, mapping={"query_id": "extra.uid", "reward": "points"})
    assert found.ids.to_pylist() == ["a", "b"]
    assert groups.right.tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "parquet", "table", "rows"])
def test_one_file_many_containers(kind: str, tmp_path: Path) -> None:
    """JSON lines, a JSON list, Parquet, a table and rows in memory give the same figures."""
    made = rows({"a": (4, 3), "b": (4, 0)})
    path = tmp_path / f"x.{kind}"
    source: Any = path
    if kind == "jsonl":
        lines(path, made)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in made).encode()))
    elif kind == "json":
        path.write_text(json.dumps({"rollouts": made}))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(made), path)
    else:
        source = pa.Table.from_pylist(made) if kind == "table" else made
    figures = si.diagnose(source).figures
    whole = diagnose(rollouts(made)).figures
    for name in ("samples", "right", "successes", "strategies", "pass_at_k", "levels"):
        assert figures[name] == whole[name]


def test_same_words_about_different_answers_are_two_queries() -> None:
    """Where ids are made from prompts, the reference answer tells equal prompts apart."""
    made = [
        {"input": "How long is it?", "output": "5", "gts": gts, "score": 1.0, "step": 1}
        for gts in ("5", "6")
    ]
    assert len(rollouts(made).ids) == 2


# --- refusals ------------------------------------------------------------------------------


def test_not_understood_is_named(tmp_path: Path) -> None:
    """A file without query or reward is refused by name, with the columns found."""
    lines(tmp_path / "odd.jsonl", [{"colour": "red", "size": 3}])
    with pytest.raises(DataError) as refused:
        rollouts(tmp_path / "odd.jsonl")
    text = str(refused.value)
    assert "odd.jsonl" in text and "colour, size" in text
    assert "reward" in text and "query_id" in text and "--map" in text


def test_two_rewards_are_not_guessed_between(tmp_path: Path) -> None:
    """Where several columns could be the reward, they are named and none is taken."""
    made = [{"step": 1, "prompt": "p", "completion": "c", "advantage": 0.0, "fun": 1.0, "wit": 0.0}]
    with pytest.raises(DataError, match="several columns") as refused:
        rollouts(made)
    assert "fun, wit" in str(refused.value) and "--map reward=fun" in str(refused.value)


@pytest.mark.parametrize(
    "row,field,why",
    [
        ({"query_id": "a", "reward": "good"}, "reward", 'is not a number: "good"'),
        ({"query_id": "a", "reward": None}, "reward", "is missing"),
        ({"query_id": "a"}, "reward", "is missing"),
        ({"query_id": None, "reward": 1}, "query_id", "is missing"),
        ({"query_id": "a", "reward": float("nan")}, "reward", "is not a number: NaN"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], field: str, why: str, tmp_path: Path) -> None:
    """A row that cannot be used is named by file, row and field, or counted and left out."""
    path = tmp_path / "some.jsonl"
    good = [{"query_id": "a", "reward": 1}, {"query_id": "b", "reward": 0}]
    lines(path, [*good, row, *good])
    with pytest.raises(DataError) as refused:
        rollouts(path)
    assert f"{path}, row 3, {field}: {why}" in str(refused.value)
    found = si.diagnose(path, skip_bad=True).figures
    assert found["samples"] == 4
    assert found["source"]["skipped"] == 1
    (bad,) = found["source"]["skipped_rows"]
    assert (bad["row"], bad["field"]) == (3, field)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """A line that is no JSON is named by its number, and the rest can be read."""
    path = tmp_path / "cut.jsonl"
    lines(path, rows({"a": (4, 2)}))
    path.write_text(path.read_text() + '{"query_id": "a", "rew')
    with pytest.raises(DataError, match=r"row 5, line: not JSON"):
        rollouts(path)
    assert si.diagnose(path, skip_bad=True).figures["samples"] == 4


def test_a_later_row_may_be_written_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Arrow meets a row unlike the first ones, reading goes on row by row from there, and
    both readings agree."""
    monkeypatch.setattr("si.rollouts.chunks.BLOCK", 2000)
    made = [row | {"response": f"r{i}"} for i, row in enumerate(rows({"a": (300, 150)}))]
    made[250]["reward"] = "1.0"
    lines(tmp_path / "x.jsonl", made)
    found, groups = read(tmp_path / "x.jsonl")
    assert groups.right.tolist() == [151]
    said = [r for _, table in found.batches(("response",)) for r in table["response"].to_pylist()]
    assert said == [row["response"] for row in made]


def test_nothing_there_is_said(tmp_path: Path) -> None:
    """No file, an empty file, an empty folder, damaged Parquet: each is named, none a traceback."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "folder").mkdir()
    for name in ("none.jsonl", "empty.jsonl", "bad.parquet", "folder"):
        with pytest.raises(SiError, match=name.replace(".", r"\.")):
            rollouts(tmp_path / name)
    with pytest.raises(RunMissing, match="nor is there such a file"):
        rollouts("no-such-run", store=str(tmp_path))


# --- what counts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rewards,threshold",
    [([0, 1], 1), ([-1, 1], 1), ([0, 0.5], 0.5), ([0, 0], 1), ([1, 1], 1), ([0, 0.1, 0.9, 1], 0.9)],
)
def test_threshold_is_told(rewards: list[float], threshold: float) -> None:
    """Of two rewards the higher is correct; 0.9 where 0.1 is for the format; it says which."""
    found = judge(rollouts([{"query_id": "a", "reward": reward} for reward in rewards]))
    assert found.threshold == threshold
    assert found.right.tolist() == [reward >= threshold for reward in rewards]
    assert found.why


def test_threshold_is_asked_for() -> None:
    """Graded rewards are not cut anywhere by themselves: they are listed, with what separates."""
    made = rollouts([{"query_id": "a", "reward": r} for r in (0, 0.2, 0.7, 0.7, 1)])
    with pytest.raises(DataError, match="which rewards are a success") as refused:
        judge(made)
    assert "0 (1x), 0.2 (1x), 0.7 (2x), 1 (1x)" in str(refused.value)
    assert "--threshold 0.7 (60.0 % of the responses" in str(refused.value)
    assert judge(made, 0.5).right.tolist() == [False, False, True, True, True]


def test_threshold_of_continuous_rewards() -> None:
    """Continuous rewards are summarised, and the widest gap is suggested, not the maximum."""
    values = [0.01 * i for i in range(20)] + [0.7 + 0.01 * i for i in range(20)]
    made = rollouts([{"query_id": "a", "reward": r} for r in values])
    with pytest.raises(DataError) as refused:
        judge(made)
    assert "40 values from 0 to 0.89" in refused.value.detail
    assert any("--threshold 0.7 (50.0 %" in way for way in refused.value.ways_out)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=1, max_size=6))
def test_pass_at_k_is_the_mean_over_subsets(counts: list[tuple[int, int]]) -> None:
    """The estimator equals the share of all k-subsets of the samples that hold a right one."""
    cases = [(n, min(n, k)) for n, k in counts]
    n, right = (np.array(part) for part in zip(*cases, strict=True))
    place = np.arange(len(n))
    curve = pass_at_k(Groups(place * 0, place, n, right, place), 7)
    for point in curve:
        size, enough = point["k"], [case for case in cases if case[0] >= point["k"]]
        shares = [
            sum(any(j < c for j in pick) for pick in combinations(range(n), size)) / comb(n, size)
            for n, c in enough
        ]
        assert point["groups"] == len(enough)
        assert point["value"] == pytest.approx(sum(shares) / len(shares))
    assert [point["value"] for point in curve] or max(n) == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_figures_are_those_of_the_strategies(counts: list[int]) -> None:
    """Examples and draws are what the loop's own rules make of the same successes, by level."""
    k = 6
    made = rows({f"q{i}": (k, right) for i, right in enumerate(counts)})
    found = si.diagnose(made, threshold=1).figures
    strategies = found["strategies"]
    for name in ("vanilla", "tc", "rp"):
        rule = by_name(name)
        each = [len(rule.reshape(range(right), k, lambda: Random(0))) for right in counts]
        assert strategies[name]["examples"] == sum(each)
        for one in LEVELS:
            mine = sum(n for n, r in zip(each, counts, strict=True) if level(k, r) == one)
            share = strategies[name]["share_by_level"][one]
            assert share == (pytest.approx(mine / sum(each)) if sum(each) else None)
    assert strategies["ar"]["draws"] == strategies["gr"]["draws"] == sum(k - r for r in counts)
    guided = sum(k - r for r in counts if r)
    assert strategies["gr"]["with_own_success"] == guided


def test_levels_are_those_of_the_first_step() -> None:
    """A query's level comes from the first step that it is seen in, and does not move."""
    made = rows({"a": (4, 4), "b": (4, 0)}, 1) + rows({"a": (4, 0), "b": (4, 4), "c": (4, 2)}, 2)
    figures = si.diagnose(made).figures
    assert figures["levels"]["queries_by_level"] == {
        "L1": 1, "L2": 0, "L3": 1, "L4": 0, "L5": 0, "U": 1
    }  # fmt: skip
    first, second = figures["windows"]
    assert first["successes"]["count_by_level"]["L1"] == 4
    assert second["successes"]["count_by_level"]["U"] == 4


def test_matthew_effect_is_told_and_not_made_up() -> None:
    """The head growing over steps is seen; one step, or queries that never recur, say nothing."""
    counts = {f"e{i}": (8, 8) for i in range(40)} | {f"h{i}": (8, 1) for i in range(40)}
    steps = [rows(counts, 1)]
    for step, easy, hard in ((2, 4, 4), (3, 8, 1)):
        now = {q: (8, easy if q.startswith("e") else hard) for q in counts}
        steps.append(rows(now, step))
    found = si.diagnose([row for step in steps for row in step]).figures["matthew"]
    assert found["seen"] == "yes" and "From step 2 to 3" in found["words"]
    assert si.diagnose(steps[0]).figures["matthew"]["seen"] == "unknown"
    apart = [{**row, "query_id": f"{row['query_id']}-{row['step']}"} for s in steps for row in s]
    assert "change of queries" in si.diagnose(apart).figures["matthew"]["words"]


def test_many_steps_are_shown_in_windows() -> None:
    """A log of hundreds of steps is shown in twenty pieces that miss none of them."""
    made = [row for step in range(1, 301) for row in rows({"a": (2, 1), "b": (2, 0)}, step)]
    windows = si.diagnose(made).figures["windows"]
    assert len(windows) == 20
    assert (windows[0]["first_step"], windows[-1]["last_step"]) == (1, 300)
    assert sum(window["samples"] for window in windows) == len(made)


def test_uneven_groups_are_said() -> None:
    """K is the most common number of samples; that others have more or fewer is said."""
    found = si.diagnose(rows({"a": (8, 4), "b": (8, 1), "c": (3, 1)}))
    assert found.figures["k"] == 8
    assert "3 to 8" in dict(found.words)["What was read"]


def test_nobody_right_is_no_crash() -> None:
    """Rollouts without a right answer give figures, words and a page all the same."""
    found = si.diagnose(rows({"a": (4, 0), "b": (4, 0)}))
    assert found.figures["successes"]["total"] == 0
    assert "nothing to train on" in dict(found.words)["What re-balancing would change"]
    assert "<svg" in found.page()


# --- outputs -------------------------------------------------------------------------------


def test_json_is_json(tmp_path: Path) -> None:
    """The figures are plain JSON without NaN, and say what was read from where."""
    found = si.diagnose(verl(tmp_path)).to_json()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert found["source"]["columns"]["reward"] == "score"


def test_page_escapes_what_it_did_not_write(tmp_path: Path) -> None:
    """Scripts in file names, column names and rows are text on the page, which needs no network."""
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    made = [{"query_id": HOSTILE[0], HOSTILE[1]: 1, "response": HOSTILE[2]}] * 3
    lines(folder / "x.jsonl", [*made, {"query_id": "b", HOSTILE[1]: HOSTILE[0]}])
    page = si.diagnose(folder, map={"reward": HOSTILE[1]}, skip_bad=True).page()
    assert "<img" not in page and "<script" not in page
    assert "&lt;img src=x onerror" in page
    assert 'http-equiv="Content-Security-Policy"' in page
    assert 'src="http' not in page and 'href="http' not in page


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and no option: words on the screen, a page beside; --json prints figures alone."""
    monkeypatch.chdir(tmp_path)
    plain(tmp_path)
    runner = CliRunner()
    shown = runner.invoke(app, ["diagnose", "mine.jsonl"])
    assert shown.exit_code == 0, shown.output
    for words in ("24 samples of 3 queries in 2 steps", "Matthew effect", "What K buys", "Page:"):
        assert words in shown.output
    assert (tmp_path / "diagnosis.html").read_text().startswith("<!doctype html>")
    again = runner.invoke(app, ["diagnose", "mine.jsonl"])  # replaces its own page
    assert again.exit_code == 0 and again.output.endswith("/diagnosis.html\n")
    (tmp_path / "diagnosis.html").write_text("mine")
    for _ in range(2):  # but no other file
        beside = runner.invoke(app, ["diagnose", "mine.jsonl"])
        assert beside.exit_code == 0 and beside.output.endswith("/diagnosis-2.html\n")
    assert (tmp_path / "diagnosis.html").read_text() == "mine"
    named = runner.invoke(app, ["diagnose", "mine.jsonl", "--out", "diagnosis-2.html"])
    assert isinstance(named.exception, SiError)
    (tmp_path / "diagnosis.html").unlink()
    words = ["diagnose", "mine.jsonl", "--json", "--threshold", "1", "--k", "2"]
    shown = runner.invoke(app, [*words, "--map", "query_id=question"])
    figures = json.loads(shown.stdout)
    assert figures["k"] == 2 and figures["queries"] == 3
    assert not (tmp_path / "diagnosis.html").exists()
    assert isinstance(runner.invoke(app, [*words, "--map", "reward"]).exception, SiError)


def test_import_si_is_instant_and_calls_are_stable() -> None:
    """`import si` loads no library, and `si.rebalance(...)` can be called before and after
    Python imports the module of the same name."""
    code = """
import sys
import si
assert not {"pyarrow", "numpy", "typer", "torch", "boto3"} & set(sys.modules)
rows = [{"query_id": "a", "prompt": "p", "response": "r", "reward": j % 2} for j in range(4)]
assert si.rebalance(rows, "rp").rows == 4
import si.stages.rebalance, si.rollouts.diagnose
assert si.rebalance(rows, "rp").rows == 4
assert si.diagnose(rows).figures["right"] == 2
assert si.stages.rebalance.uses
assert not {"torch", "boto3", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


DOCS = Path(__file__).parents[2] / "docs" / "diagnose.md"


def test_commands_in_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every diagnose and rebalance command of docs/diagnose.md does what it says; so does its
    Python."""
    text = DOCS.read_text()
    commands = re.findall(r"^    si-ctl ((?:diagnose|rebalance) .+)$", text, re.MULTILINE)
    assert len(commands) >= 7
    plain(tmp_path).rename(tmp_path / "rollouts.jsonl")
    predictions(tmp_path / "generated_predictions.jsonl")
    verl(tmp_path / "rollouts")
    made = [{"meta": {"uid": q}, "points": p} for q in "ab" for p in (0, 1)]
    lines(tmp_path / "other.jsonl", made)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        shown = CliRunner().invoke(app, command.split())
        assert shown.exit_code == 0, (command, shown.output)
        out = re.search(r"--out (\S+)", command)
        assert out is None or (tmp_path / out[1]).exists()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})


def test_docs_name_every_figure_and_tool(tmp_path: Path) -> None:
    """docs/diagnose.md names every key of the JSON and every tool that is recognised."""
    text = DOCS.read_text()
    for name in si.diagnose(verl(tmp_path)).to_json():
        if name not in ("k_given", "samples_by_group", "length_unit"):
            assert f"`{name}`" in text, name
    for written in LAYOUTS.values():
        assert written.layout in text or written.layout == "columns by name"


# --- files without a reward ------------------------------------------------------------------


def predictions(path: Path) -> Path:
    """What LLaMA-Factory's predict writes: no reward; of each query one response is correct."""
    made = [
        {"prompt": f"What is {q}?", "predict": f"So.\n\\boxed{{{q + j}}}", "label": str(q)}
        for q in range(3)
        for j in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def outputs(path: Path) -> Path:
    """What vLLM returns for each request, with a list of accepted answers."""
    made = [
        {
            "request_id": str(q),
            "prompt": f"What is {q}?",
            "outputs": [
                {"index": j, "text": f"\\boxed{{{q + j}}}", "finish_reason": "stop"}
                for j in range(2)
            ],
            "answers": [f"it is {q}", str(q)],
        }
        for q in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.mark.parametrize("write", [predictions, outputs])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_responses_are_judged_on_the_spot(write: Any, kind: str, tmp_path: Path) -> None:
    """Without a reward, --verify makes one of the references; the refusal without it names it."""
    source = write(tmp_path / "r.jsonl")
    made = [json.loads(line) for line in source.read_text().splitlines()]
    if kind == "parquet":
        source = tmp_path / "r.parquet"
        pq.write_table(pa.Table.from_pylist(made), source)
    if kind == "csv":
        if write is outputs:
            pytest.skip("a CSV holds no lists")
        source = tmp_path / "r.csv"
        with source.open("w", newline="") as file:
            table = csv.DictWriter(file, list(made[0]))
            table.writeheader()
            table.writerows(made)
    with pytest.raises(DataError, match="cannot be understood") as refused:
        si.diagnose(source)
    assert any("--verify" in way for way in refused.value.ways_out)
    found = si.diagnose(source, verify=True).figures
    assert (found["samples"], found["queries"], found["k"], found["right"]) == (6, 3, 2, 3)
    assert any("3 of 6 are correct" in note for note in found["source"]["notes"])
    rows = si.rebalance(source, "rp", verify=True).table.to_pylist()
    assert len(rows) == 6 and {"So." in row["completion"] for row in rows} == {write is predictions}
    word = {"answer": "label"} if write is predictions else {"answer": "answers.1"}
    assert si.diagnose(source, verify=True, map=word).figures["right"] == 3
    with pytest.raises(DataError, match="no field 'reward'"):
        si.diagnose(source, verify=True, map={"reward": "prompt"})


def test_what_cannot_be_judged_on_the_spot(tmp_path: Path) -> None:
    """Files of a folder without references are left out; rows in memory and runs are refused."""
    source = predictions(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"loss": 1.0}\n')
    assert si.diagnose(tmp_path, verify=True).figures["samples"] == 6
    with pytest.raises(DataError, match="cannot be understood"):
        si.diagnose([source, tmp_path / "b.jsonl"], verify=True)
    for other in ([{"a": 1}], pa.table({"a": [1]})):
        with pytest.raises(RecipeError, match="on the spot"):
            si.diagnose(other, verify=True)


def test_images_of_judged_rows_are_found(tmp_path: Path) -> None:
    """Paths in a file that is judged on the spot start from its own folder."""
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "1.png")
    row = {"prompt": "<image>Which?", "images": ["1.png"], "response": "Answer: 3", "label": "3"}
    (tmp_path / "in" / "r.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "train.jsonl"
    runner = CliRunner()
    words = ["rebalance", str(tmp_path / "in" / "r.jsonl"), "--verify", "--out", str(out)]
    assert runner.invoke(app, words).exit_code == 0
    assert json.loads(out.read_text())["images"] == ["in/1.png"]
