"""Which samples belong to one query, where words alone do not say it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import si
from si.api import rollouts
from si.cli import app
from si.datasets.sources import commit, parts
from si.errors import DataError
from si.rollouts.identity import image_digests
from si.rollouts.table import IMAGES
from si.rollouts.verify import judge_file
from si.store.folder import FolderStore
from si.store.keys import Spec

WORDS = "<image>What is the angle?"


def asked(queries: int, k: int = 3, **more: Any) -> list[dict[str, Any]]:
    """K samples of each query; all have the same words."""
    return [
        {"prompt": WORDS, "response": f"{q}.{j}", "reward": float(j <= q % k)} | _named(q, more)
        for q in range(queries)
        for j in range(k)
    ]


def _named(query: int, more: dict[str, Any]) -> dict[str, Any]:
    return {name: make(query) for name, make in more.items()}


@pytest.mark.parametrize(
    "images",
    [
        lambda q: [f"figures/{q}.png"],
        lambda q: f"figures/{q}.png",
        lambda q: [{"bytes": bytes([q, 1, 2]), "path": "figure.png"}],
    ],
    ids=["paths", "path", "bytes"],
)
def test_images_are_part_of_what_is_asked(images: Any) -> None:
    """Equal words about different images are different queries."""
    found = si.diagnose(asked(6, images=images)).figures
    assert (found["queries"], found["k"], found["warnings"]) == (6, 3, [])


@pytest.mark.parametrize("name", ["id", "idx", "index", "sample_id", "pid"])
def test_an_id_that_is_finer_than_the_words(name: str) -> None:
    """A column of ids separates queries with the same words, and a note says so."""
    found = rollouts(asked(6, **{name: lambda q: q}))
    assert len(found.ids) == 6
    assert f"The column {name} separates" in " ".join(found.source.notes)


@pytest.mark.parametrize("how", ["row number", "sample number", "number in its step", "missing"])
def test_a_number_that_is_no_id(how: str) -> None:
    """Numbers of rows, of samples, and of rows within a step do not split a query."""
    made = [
        {"prompt": f"Query {q}?", "response": "r", "reward": j % 2, "step": step, "idx": 0}
        for step in (1, 2)
        for q in (range(4) if step == 1 else range(4, 8))
        for j in range(3)
    ]
    for number, row in enumerate(made):
        row["idx"] = {
            "row number": number,
            "sample number": number % 3,
            "number in its step": number % 12,
            "missing": None,
        }[how]
    assert len(rollouts(made).ids) == 8


def test_an_id_by_which_no_sample_repeats_is_a_row_number() -> None:
    """Unique numbers beside equal prompts count rows, so the prompt identifies the query."""
    made = [{"prompt": "p", "response": "r", "reward": n % 2, "id": n} for n in range(8)]
    assert len(rollouts(made).ids) == 1


def test_groups_of_twice_the_usual_size_are_loud(tmp_path: Path) -> None:
    """Where words merge two questions, diagnose and rebalance begin with a warning."""
    made = [
        {"prompt": f"Query {min(q, 4)}?", "response": "r", "reward": float(j < 2)}
        for j in range(4)
        for q in range(6)
    ]
    found = si.diagnose(made)
    assert found.words[0][0] == "Warning"
    assert "1 of 5 groups of samples (20.0 %) have twice the usual 4" in found.words[0][1]
    assert si.rebalance(made).notes[0].startswith("Warning: ")
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    out = CliRunner().invoke(app, ["rebalance", str(path), "--out", str(tmp_path / "x.jsonl")])
    assert "Warning: " in out.output and "--map query_id=COLUMN" in out.output


def test_separate_runs_of_a_query_are_loud() -> None:
    """Four runs of 3 samples with the same words and answer are probably four questions."""
    made = [
        {"input": "Find it.", "output": "r", "gts": str(q % 2), "score": j % 2, "step": 1}
        for q in range(8)
        for j in range(3)
    ]
    (warning,) = si.diagnose(made).figures["warnings"]
    assert "12 samples of a query lie in 4 separate runs of 3" in warning


def test_shuffled_samples_are_quiet() -> None:
    """Samples in another order than query by query are no sign of anything."""
    made = [{"prompt": f"p{q}", "response": "r", "reward": j % 2} for j in range(4) for q in "abc"]
    assert si.diagnose(made).figures["warnings"] == []


def test_levels_of_one_sample_are_not_shown(tmp_path: Path) -> None:
    """One sample per query gives no levels: neither sentences nor tables nor the page has any."""
    made = [{"query_id": str(q), "response": "r", "reward": q % 2} for q in range(10)]
    found = si.diagnose(made)
    words = dict(found.words)
    assert "levels cannot be estimated" in words["Who feeds the training"]
    assert found.figures["levels"]["of_one_sample"]
    assert not found.tables["shares"] and not found.tables["strategies"]
    assert (
        "Head's share" not in found.page() and "head" not in words["What re-balancing would change"]
    )


def test_digests_of_images() -> None:
    """Equal bytes under other paths are one image; without bytes the path counts."""
    import pyarrow as pa

    cells = [
        [{"bytes": b"a", "path": "1"}],
        [{"bytes": b"a", "path": "2"}],
        [{"bytes": None, "path": "1"}],
    ]
    one, other, path = image_digests(pa.array([*cells], IMAGES)).to_pylist()
    assert one == other != path


# --- structures that tools write ---------------------------------------------------------------


def test_columns_as_lists_are_rows(tmp_path: Path) -> None:
    """A line per step whose columns are lists gives a sample for each entry, in verify as well."""
    k, queries = 3, ("p0", "p1")
    made = [
        {
            "step": [str(step)] * 6,
            "prompt": [q for q in queries for _ in range(k)],
            "completion": ["Answer: 1", "Answer: 2", "Answer: 1"] * 2,
            "solution": ["1"] * 6,
            "MyAccuracyORM": [1.0, 0.0, 1.0] * 2,
            "advantages": [0.0] * 6,
        }
        for step in (1, 2)
    ]
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    found = si.diagnose(path).figures
    assert (found["samples"], found["queries"], found["k"], found["steps"]) == (12, 2, 3, 2)
    assert judge_file(path).right == 8
    with pytest.raises(DataError, match="lists of different lengths"):
        rollouts([{**made[0], "completion": ["x"]}])


def test_judge_objects_of_lmms_eval() -> None:
    """A metric that is an object of a judge, beside a copy for the submission, is the reward."""
    made = [
        {
            "doc_id": q,
            "target": "1",
            "filtered_resps": ["1"],
            "doc_hash": "h",
            "input": "?",
            "llm_as_judge_eval": {"extraction": "1", "true_false": q == 0},
            "submission": {"extraction": "1", "true_false": q == 0},
        }
        for q in range(2)
    ]
    assert si.diagnose(made).figures["right"] == 1


def test_predictions_without_a_reward_name_verify(tmp_path: Path) -> None:
    """Responses with references but no reward: the printed command judges them, and it works."""
    path = tmp_path / "generated_predictions.jsonl"
    made = [{"prompt": f"p{n}", "predict": "Answer: 1", "label": str(n % 2)} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    with pytest.raises(DataError) as refused:
        rollouts(path)
    assert f"si-ctl verify {path} --out judged.jsonl" in refused.value.ways_out[1]
    judge_file(path, out=tmp_path / "judged.jsonl")
    assert si.diagnose(tmp_path / "judged.jsonl").figures["right"] == 2


def test_encodings_of_rollouts(tmp_path: Path) -> None:
    """A file that is not UTF-8 is named, and read with its encoding."""
    path = tmp_path / "r.jsonl"
    made = [{"query_id": "größe", "response": "ä", "reward": j} for j in (0, 1)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="--encoding latin-1"):
        rollouts(path)
    assert rollouts(path, encoding="latin-1").ids.to_pylist() == ["größe"]


def test_a_damaged_data_set_does_not_hide_the_others(tmp_path: Path) -> None:
    """`data list` lists what is sound, names what is damaged, and exits with 4."""
    store = FolderStore(tmp_path / "store")
    for name in ("good", "bad"):
        commit(store, Spec("synth", name, {}, {}, {}), lambda _: parts([], "train"))
    (spec,) = (tmp_path / "store" / "data").glob("bad-*/spec.json")
    spec.chmod(0o644)
    spec.write_text("{}")
    done = CliRunner().invoke(app, ["data", "list", "--store", str(tmp_path / "store")])
    assert done.exit_code == 4, done.output
    assert "good-" in done.stdout and f"data/{spec.parent.name} is damaged" in done.stderr
