"""`si-ctl verify FILE`: anybody's answers judged, whatever is in the file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from si.errors import DataError, OutputError, RecipeError
from si.rollouts.verify import judge_file, understand
from tests.loop.running import si_ctl
from tests.unit import rollout_files


def lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


AWKWARD = [
    ("Answer: 12", "12", True),
    ("", "12", False),
    ("   \n\n", "12", False),
    (r"So it is \boxed{\frac{3}{4}}", "0.75", True),
    (r"So it is \boxed{\frac{3}{4", "0.75", False),
    (r"\boxed{" * 5000, "1", False),
    ("Answer: " + "9" * 2_000_000, "9", False),
    ("x" * 3_000_000, "12", False),
    (r"Answer: $\frac{1}{2} + \frac{1}{3}$", r"\frac{5}{6}", True),
    (r"Answer: $9^{9^{9^{9}}}$", "$x^2 + 1$", False),
    ("Answer: \x1b[31m\x00 12", "12", False),
    ("Answer: \ud800", "12", False),
    ("Answer: (B)", "B", True),
    ("Answer: ١٢", "12", False),
    ("The answer is 7. I took 9 - 2.", "7", True),
]


def test_awkward_answers_have_verdicts(tmp_path):
    """Empty, huge and unbalanced answers, towers of powers and control codes are judged, and all
    columns and verdicts come out in order."""
    rows = [{"n": i, "response": r, "answer": a} for i, (r, a, _) in enumerate(AWKWARD)]
    out = tmp_path / "out.jsonl"
    made = judge_file(lines(tmp_path / "in.jsonl", rows), out=out, timeout=1.0)
    written = read(out)
    assert [row["n"] for row in written] == list(range(len(AWKWARD)))
    assert [row["verdict_correct"] for row in written] == [right for _, _, right in AWKWARD]
    assert (made.rows, made.right) == (len(AWKWARD), sum(right for *_, right in AWKWARD))
    assert sum(made.methods.values()) == len(AWKWARD) and not made.bad
    assert all(len(row["verdict_extracted"] or "") <= 512 for row in written)


def test_parquet_keeps_its_columns_and_types(tmp_path):
    """Of a Parquet file every column comes back as it was, images too, and verdicts behind."""
    images = pa.array([[{"bytes": b"\x89PNG", "path": None}]] * 3)
    table = pa.table(
        {
            "images": images,
            "prediction": ["Answer: 1", "Answer: 2", None],
            "ground_truth": ["1", "1", "1"],
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "n": pa.array([1, 2, 3], pa.int16()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    made = judge_file(tmp_path / "in.parquet", out=out, skip_bad=True)
    written = pq.read_table(out)
    assert written["images"].type == images.type and written["n"].type == pa.int16()
    assert written.drop(
        [n for n in written.column_names if n.startswith("verdict")]
    ).to_pylist() == (table.to_pylist())
    assert written["verdict_correct"].to_pylist() == [True, False, None]
    assert written["verdict_method"].to_pylist() == ["exact", "number", None]
    assert made.columns == {"response": "prediction", "answer": "ground_truth"}
    again = judge_file(out, out=tmp_path / "again.parquet", skip_bad=True)
    assert pq.read_table(tmp_path / "again.parquet").equals(written) and again.right == 1


@pytest.mark.parametrize(
    "tool,right,all_", [("verl", 14, 24), ("lm_eval", 12, 24), ("lmms_eval", 6, 12)]
)
def test_logs_of_tools_are_recognised(tool, right, all_, tmp_path):
    """Files as verl, lm-eval and lmms-eval write them need no --map, and what they call right is
    right."""
    getattr(rollout_files, tool)(tmp_path / "logs")
    files = sorted(path for path in (tmp_path / "logs").rglob("*") if path.suffix == ".jsonl")
    made = [judge_file(path) for path in files]
    assert sum(one.right for one in made) == right
    assert sum(one.responses for one in made) == all_
    # lm-eval scores a response once for each filter: no score is about the response alone.
    assert {one.disagreement for one in made} == ({(0, 0)} if tool == "verl" else {None})


def test_names_that_people_use():
    """Response and reference are found by their usual names; one column is never both."""
    rows = [{}]
    for names, expected in (
        (["problem", "completion", "solution"], ("completion", "solution")),
        (["solution", "answer"], ("solution", "answer")),
        (["Prediction", "Label"], ("Prediction", "Label")),
        (["messages", "target"], ("messages", "target")),
        (["prompt", "output", "reference"], ("output", "reference")),
    ):
        found = understand(names, rows, {}, "x")
        assert (found.get("response") or found["messages"], found["answer"]) == expected
    named = understand(
        ["input", "output", "gts", "score", "step"], rows, {"messages": "input"}, "x"
    )
    assert named == {"messages": "input", "answer": "gts", "reward": "score"}
    with pytest.raises(DataError, match="cannot be understood") as error:
        understand(["solution", "prompt"], rows, {}, "x")
    assert "missing: the reference answer" in error.value.detail


def test_mapped_columns_go_before(tmp_path):
    """--map takes paths, and a reward to hold verdicts against."""
    rows = [
        {"out": {"text": "Answer: 1"}, "answer": "nonsense", "gold": [1], "score": 1},
        {"out": {"text": "Answer: 2"}, "answer": "nonsense", "gold": [1], "score": 1},
        {"out": {"text": "Answer: 1"}, "answer": "nonsense", "gold": [1], "score": -1},
    ]
    path = lines(tmp_path / "in.jsonl", rows)
    made = judge_file(path, {"response": "out.text", "answer": "gold.0"})
    assert (made.right, made.disagreement) == (2, (1, 1))
    for mapping, said in (
        ({"reply": "out"}, "no field 'reply'"),
        ({"answer": "x"}, "no column 'x'"),
    ):
        with pytest.raises(DataError, match=said):
            judge_file(path, mapping)


def test_conversations_lists_and_kinds(tmp_path):
    """The last message is the response; a row with several has a list of verdicts; the kind of
    answer and a response cut by its limit count as in a run."""
    rows = [
        {"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}]}
    ]
    made = judge_file(lines(tmp_path / "m.jsonl", [{**rows[0], "answer": 1}]))
    assert (made.right, made.columns["messages"]) == (1, "messages")
    several = [{"completions": ["Answer: 1", "Answer: 2"], "answer": "1"}]
    made = judge_file(lines(tmp_path / "l.jsonl", several), out=tmp_path / "o.jsonl")
    assert (made.rows, made.responses, made.right) == (1, 2, 1)
    assert read(tmp_path / "o.jsonl")[0]["verdict_correct"] == [True, False]
    pq.write_table(pa.Table.from_pylist(several), tmp_path / "l.parquet")
    judge_file(tmp_path / "l.parquet", out=tmp_path / "o.parquet")
    assert pq.read_table(tmp_path / "o.parquet")["verdict_method"].to_pylist() == [
        ["exact", "number"]
    ]
    kinds = [
        {"response": "Answer: A dog", "answer": "A", "answer_kind": "choice"},
        {"response": "Answer: 12\nAnswer: 1", "answer": "12", "finish_reason": "length"},
    ]
    kinds[1]["answer_kind"] = "number"
    assert judge_file(lines(tmp_path / "k.jsonl", kinds)).right == 1


BAD = [
    '{"response": "Answer: 1", "answer": "1"}',
    '{"response": "Answer: 1"',
    '{"response": null, "answer": "1"}',
    '{"response": "Answer: 1", "answer": ""}',
    "{}",
    "[" * 100_000,
]


def test_bad_rows_are_named_and_can_be_left_out(tmp_path):
    """Rows without response or reference are named by file, row and field, and nothing is
    written; with --skip-bad they are counted, and have no verdict."""
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(BAD) + "\n")
    with pytest.raises(DataError, match="5 rows cannot be used") as error:
        judge_file(path, out=out)
    for row, field in ((2, "line"), (3, "response"), (4, "answer"), (5, "response"), (6, "line")):
        assert f"in.jsonl, row {row}, {field}: " in error.value.detail
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl"]
    made = judge_file(path, out=out, skip_bad=True)
    assert (made.responses, made.right, len(made.bad)) == (1, 1, 5)
    assert [row["verdict_correct"] for row in read(out)] == [True, None, None, None]
    path.write_text(BAD[2] + "\n")
    with pytest.raises(DataError, match="no response to judge"):
        judge_file(path, out=tmp_path / "none.jsonl", skip_bad=True)
    assert not (tmp_path / "none.jsonl").exists()


def test_verifiers_of_ones_own(tmp_path, monkeypatch):
    """A function of one's own judges instead; what it fails on is named by row."""
    (tmp_path / "mine_judging.py").write_text(
        "def same(response, answer, kind):\n    return 1 / len(response) and response == answer\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"response": "a", "answer": "a"}, {"response": "b", "answer": "a"}]
    path = lines(tmp_path / "in.jsonl", rows)
    made = judge_file(path, judge="mine_judging:same")
    assert (made.right, dict(made.methods)) == (1, {"own": 2})
    path = lines(path, [*rows, {"response": "", "answer": "a"}])
    with pytest.raises(RecipeError, match="of row 3"):
        judge_file(path, judge="mine_judging:same")


def test_files_that_do_not_fit(tmp_path):
    """What is there stays, kinds of files are not mixed, and what is no such file is named."""
    path = lines(tmp_path / "in.jsonl", [{"response": "1", "answer": "1"}])
    judge_file(path, out=path, force=True)
    assert read(path)[0]["verdict_correct"] is True
    before = path.read_bytes()
    (tmp_path / "no.parquet").write_text("no")
    for given, out, said in (
        (path, path, "exists already"),
        (path, tmp_path / "x.parquet", "cannot be written from"),
        (tmp_path / "none.jsonl", None, "There is no file"),
        (tmp_path / "no.parquet", None, "cannot be read"),
        (tmp_path, None, "There is no file"),
    ):
        with pytest.raises((DataError, OutputError), match=said):
            judge_file(given, out=out)
    assert path.read_bytes() == before
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(DataError, match="is not a file of rows"):
        judge_file(tmp_path / "text.txt")


def test_the_command(tmp_path):
    """The command prints accuracy and methods, or JSON; errors have no traceback."""
    rows = [{"response": f"Answer: {i % 2}", "answer": "1", "score": 1.0} for i in range(10)]
    rows.append({"response": "Answer: 1", "answer": None, "score": 0.0})
    lines(tmp_path / "in\x1b.jsonl", rows)
    words = ("verify", "in\x1b.jsonl")
    done = si_ctl(*words, cwd=tmp_path, check=False)
    assert done.returncode == 3 and "--skip-bad" in done.stderr and "Traceback" not in done.stderr
    done = si_ctl(*words, "--skip-bad", "--out", "out.jsonl", cwd=tmp_path)
    assert "5 of 10 correct: 50.0 %, 95 % interval 23.7" in done.stdout
    assert "Read response response, answer answer, reward score" in done.stdout
    assert "The file's own score differs: 5 correct there only, 0 here only" in done.stdout
    assert "1 rows left out" in done.stdout and "out.jsonl" in done.stdout
    said = json.loads(si_ctl(*words, "--skip-bad", "--json", cwd=tmp_path).stdout)
    assert (said["right"], said["responses"], said["skipped"]) == (5, 10, 1)
    assert said["own_reward"] == {"right_there_only": 5, "right_here_only": 0}
    assert "\x1b" not in done.stdout


def test_lists_beside_several_responses(tmp_path):
    """A finish reason for each response counts for it alone; too few human verdicts leave the rest
    unknown; a list of another length is a bad row."""
    row = {"response": ["Answer: 2", "Answer: 2\n"], "answer": "2"}
    cut = row | {"finish_reason": ["length", "stop"], "ok": [1]}
    path = lines(tmp_path / "in.jsonl", [cut])
    made = judge_file(path, {"truth": "ok"}, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[0]["verdict_correct"] == [False, True]
    assert made.responses == 2
    path = lines(tmp_path / "bad.jsonl", [row | {"finish_reason": ["stop"]}])
    with pytest.raises(DataError) as refused:
        judge_file(path)
    assert "finish_reason" in str(refused.value)
