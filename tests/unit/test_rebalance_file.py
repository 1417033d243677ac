"""Rebalance a file: the loop's own rules, in rows that other tools read."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import si
from si.cli import app
from si.errors import DataError, OutputError, RecipeError, SiError
from si.rollouts.layouts import SUFFIXES, parse_prompt
from tests.unit.rollout_files import ANSWERS, LAYOUTS, QUESTIONS, RIGHT, K, lines, plain, trl, verl

SOLVED = sum(right > 0 for counts in RIGHT.values() for right in counts)
SUCCESSES = sum(map(sum, RIGHT.values()))


def rows(counts: list[int], k: int = 4) -> list[dict[str, Any]]:
    """K samples of each query, the first ones right; every response is its own."""
    return [
        {"query_id": f"q{i}", "prompt": f"Query {i}?", "response": f"{i}.\n{j}", "reward": j < n}
        for i, n in enumerate(counts)
        for j in range(k)
    ]


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, read as a stranger would."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))


# --- layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES["trl"])
def test_trl_conversational(suffix: str, tmp_path: Path) -> None:
    """TRL: prompt and completion as messages, where the prompt is known as messages."""
    out = tmp_path / f"train{suffix}"
    made = si.rebalance(verl(tmp_path / "verl"), "rp", out)
    found = load(out)
    assert len(found) == made.rows == SOLVED * K
    for row in found:
        assert set(row) == {"prompt", "completion"}
        assert row["prompt"][0] == {"role": "system", "content": "You are helpful."}
        (said,) = row["completion"]
        question = row["prompt"][1]["content"]
        answer = ANSWERS[QUESTIONS.index(question)]
        assert said["role"] == "assistant" and said["content"].endswith(f"Answer: {answer}")


def test_trl_keeps_a_templated_prompt_as_text(tmp_path: Path) -> None:
    """A prompt with the chat template's own tokens stays text: no template is put on twice."""
    out = tmp_path / "train.jsonl"
    si.rebalance(trl(tmp_path / "trl"), "vanilla", out)
    found = load(out)
    assert len(found) == SUCCESSES
    assert all(row["prompt"].startswith("<|im_start|>user\n") for row in found)
    assert all(isinstance(row["completion"], str) for row in found)


@pytest.mark.parametrize("suffix", SUFFIXES["sharegpt"])
def test_sharegpt(suffix: str, tmp_path: Path) -> None:
    """LLaMA-Factory: conversations of human and gpt, taken out of the chat template."""
    out = tmp_path / f"train{suffix}"
    si.rebalance(trl(tmp_path / "trl"), "tc", out, format="sharegpt")
    found = load(out)
    assert len(found) == sum(min(right, K // 2) for step in RIGHT.values() for right in step)
    for row in found:
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]
        assert row["conversations"][0]["value"] in QUESTIONS


def test_verl(tmp_path: Path) -> None:
    """verl: Parquet with messages of role and content."""
    out = tmp_path / "train.parquet"
    si.rebalance(plain(tmp_path), "rp", out, format="verl")
    schema = pq.read_schema(out)
    assert schema.field("messages").type == pa.list_(
        pa.struct([("role", pa.string()), ("content", pa.string())])
    )
    for row in load(out):
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]


def test_plain_rows_tell_copies_apart(tmp_path: Path) -> None:
    """jsonl: rp's repetitions are rows of their own, copy 0, 1, 2 ..."""
    out = tmp_path / "train.jsonl"
    si.rebalance(rows([1, 3, 0]), "rp", out, format="jsonl")
    found = load(out)
    assert [row["copy"] for row in found if row["query_id"] == "q0"] == [0, 1, 2, 3]
    mine = Counter(row["response"] for row in found if row["query_id"] == "q1")
    assert mine == {"1.\n0": 2, "1.\n1": 1, "1.\n2": 1}
    assert not [row for row in found if row["query_id"] == "q2"]


@pytest.mark.parametrize("layout", SUFFIXES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_log_to_every_layout(name: str, layout: str, tmp_path: Path) -> None:
    """Whatever tool wrote the rollouts, each tool's rows come out, as many as there should be."""
    written = LAYOUTS[name]
    out = tmp_path / f"train{SUFFIXES[layout][0]}"
    made = si.rebalance(written.write(tmp_path / "in"), "rp", out, format=layout)
    solved = sum(right > 0 for step in written.steps for right in RIGHT[step])
    assert len(load(out)) == made.rows == solved * K


@pytest.mark.parametrize(
    "layout,suffix", [(name, suffix) for name, known in SUFFIXES.items() for suffix in known]
)
def test_the_datasets_library_loads_them(layout: str, suffix: str, tmp_path: Path) -> None:
    """What tools read rows with, Hugging Face's datasets, finds the same rows in every layout."""
    datasets = pytest.importorskip("datasets")
    out = tmp_path / f"train{suffix}"
    made = si.rebalance(verl(tmp_path / "verl"), "rp", out, format=layout)
    kind = "parquet" if suffix == ".parquet" else "json"
    cache = str(tmp_path / "cache")
    read = datasets.load_dataset(kind, data_files=str(out), split="train", cache_dir=cache)
    assert len(read) == made.rows
    assert read.to_list() == load(out)


def test_images_travel(tmp_path: Path) -> None:
    """Images go along: paths as they are, bytes as files beside JSON and inside Parquet, with an
    <image> in the words for each."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(file, "PNG")
    made = rows([4, 2])
    for row in made:
        row["images"] = [{"bytes": file.getvalue(), "path": None}]
    out = tmp_path / "share.json"
    si.rebalance(made, "vanilla", out, format="sharegpt")
    found = load(out)
    assert len({row["images"][0] for row in found}) == 1
    assert (tmp_path / found[0]["images"][0]).read_bytes() == file.getvalue()
    assert found[0]["conversations"][0]["value"].startswith("<image>Query")
    out = tmp_path / "rows.parquet"
    si.rebalance(made, "vanilla", out, format="verl")
    assert load(out)[0]["images"][0]["bytes"] == file.getvalue()
    for row in made:
        row["images"] = ["pictures/a.png"]
    out = tmp_path / "paths.jsonl"
    si.rebalance(made, "vanilla", out)
    assert load(out)[0]["images"] == ["pictures/a.png"]


@pytest.mark.parametrize(
    "prompt,stripped,turns",
    [
        ('[{"role": "user", "content": "Why?"}]', False, [("user", "Why?")]),
        ("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", False, [("user", "Why?")]),
        ("system\nBe.\nuser\nWhy?\nassistant\n", True, [("system", "Be."), ("user", "Why?")]),
        ("user\nWhy?\nassistant\nSo.\nuser\nHow?\nassistant\n", True, None),
        ("user\nWhy?\nassistant\n", False, None),
        ("[{broken", True, None),
        ("Why?", True, None),
    ],
)  # fmt: skip
def test_prompts_are_taken_apart_only_where_sure(
    prompt: str, stripped: bool, turns: list[tuple[str, str]] | None
) -> None:
    """A prompt becomes messages where there is one way to read it, and stays as it is elsewhere."""
    found = parse_prompt(prompt, stripped)
    wanted = turns and [{"role": role, "content": said} for role, said in turns]
    assert found == (wanted or prompt)


# --- what the strategies make --------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8).filter(any), st.integers(0, 5))
def test_rules_hold_on_files(counts: list[int], seed: int) -> None:
    """rp gives every solved query K rows, tc at most K // 2 and no row twice, vanilla all; only
    right responses are in any."""
    made = rows(counts)
    right = {row["response"] for row in made if row["reward"]}

    def table(strategy: str) -> pa.Table:
        found = si.rebalance(made, strategy, format="jsonl", seed=seed).table
        assert set(found["response"].to_pylist()) <= right
        return found

    by_query = Counter(table("rp")["query_id"].to_pylist())
    assert by_query == {f"q{i}": 4 for i, n in enumerate(counts) if n}
    clipped = table("tc")
    assert len(set(clipped["response"].to_pylist())) == len(clipped)
    assert Counter(clipped["query_id"].to_pylist()) == {
        f"q{i}": min(n, 2) for i, n in enumerate(counts) if n
    }
    assert sorted(table("vanilla")["response"].to_pylist()) == sorted(right)


def test_steps_are_rebalanced_one_by_one(tmp_path: Path) -> None:
    """A query that comes again in a later step has K rows of each."""
    made = si.rebalance(plain(tmp_path), "rp", format="jsonl").table
    pairs = Counter(zip(made["step"].to_pylist(), made["query_id"].to_pylist(), strict=True))
    assert set(pairs.values()) == {K} and len(pairs) == SOLVED


def test_choices_are_the_loops() -> None:
    """tc on a file draws what the rebalance stage draws for the same seed, step and query."""
    from si.randomness import keyed_rng
    from si.strategies import ThresholdClipping

    counts = [4, 4, 3, 0, 1]
    found = si.rebalance(rows(counts), "tc", format="jsonl", seed=3).table.to_pylist()
    wanted = []
    for i, n in enumerate(counts):
        mine = [f"{i}.\n{j}" for j in range(n)]
        wanted += ThresholdClipping().reshape(
            mine, 4, lambda i=i: keyed_rng(3, "rebalance", 0, f"q{i}")
        )
    assert [row["response"] for row in found] == wanted


@pytest.mark.parametrize("strategy", ["tc", "gr", "ar+rp"])
def test_equal_arguments_give_equal_bytes(strategy: str, tmp_path: Path) -> None:
    """The same call writes the same file, and another seed another choice."""
    source = rows([4, 3, 4, 4, 2, 4, 1] * 3)
    names = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for name, seed in zip(names, (0, 0, 1), strict=True):
        si.rebalance(source, strategy, name, seed=seed)
    one, same, other = (name.read_bytes() for name in names)
    assert one == same
    assert strategy != "tc" or one != other


# --- draws ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.sampled_from(["ar", "gr"]))
def test_draws_sum_to_what_failed(counts: list[int], strategy: str) -> None:
    """ar and gr ask for K - k samples of every query; gr's begin with a right response's steps."""
    made = si.rebalance(rows(counts), strategy, threshold=1)
    assert made.kind == "draws"
    asked: Counter[str] = Counter()
    for row in made.table.to_pylist():
        asked[row["query_id"]] += row["n"]
        i = int(row["query_id"][1:])
        assert row["prompt"] == f"Query {i}?"
        guided = strategy == "gr" and counts[i] > 0
        assert row["prefix"] == (f"{i}.\n" if guided else "")
        assert row["source"] == ("own" if guided else "plain")
    assert asked == {f"q{i}": 4 - n for i, n in enumerate(counts) if n < 4}
    assert made.samples == sum(asked.values())


def test_guided_by_an_earlier_success(tmp_path: Path) -> None:
    """Where a query has no right answer now, gr begins with the steps of an earlier one."""
    earlier = [{**row, "step": 1} for row in rows([2])]
    now = [{**row, "step": 2, "reward": 0} for row in rows([0])]
    found = si.rebalance([*earlier, *now], "gr").table.to_pylist()
    assert {(row["step"], row["source"]) for row in found} == {(1, "own"), (2, "earlier")}


def test_compositions_say_what_comes_next(tmp_path: Path) -> None:
    """gr+tc's draws are gr's, with the word that tc follows once they are sampled."""
    made = si.rebalance(rows([2, 1]), "gr+tc")
    assert made.table.equals(si.rebalance(rows([2, 1]), "gr").table)
    assert "rebalance both with tc" in made.notes[-1]


# --- files ---------------------------------------------------------------------------------


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    """A file that is there stays as it is without --force."""
    out = tmp_path / "train.jsonl"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        si.rebalance(rows([2]), "rp", out)
    assert out.read_text() == "mine"
    si.rebalance(rows([2]), "rp", out, force=True)
    assert len(load(out)) == 4


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    """A response that is missing halfway leaves no file, nor a part of one."""
    made = rows([4, 4, 4])
    made[9]["response"] = None
    with pytest.raises(DataError, match="no response"):
        si.rebalance(made, "vanilla", tmp_path / "train.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words,said",
    [
        ({"strategy": "best"}, "unknown strategy 'best'"),
        ({"format": "alpaca"}, "unknown layout 'alpaca'"),
        ({"format": "verl", "out": "x.jsonl"}, "does not fit the layout verl"),
    ],
)
def test_unknown_words_are_named(words: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Strategies, layouts and file names that do not fit are named with those that do."""
    words = {name: tmp_path / word if name == "out" else word for name, word in words.items()}
    with pytest.raises(RecipeError, match=said):
        si.rebalance(rows([2]), **words)


def test_nothing_to_write_is_said(tmp_path: Path) -> None:
    """Without a right sample, a response or a prompt there is no file, and the reason is named."""
    out = tmp_path / "train.jsonl"
    with pytest.raises(DataError, match="no sample is correct"):
        si.rebalance(rows([0, 0]), "rp", out)
    for missing in ("response", "prompt"):
        made = [{n: v for n, v in row.items() if n != missing} for row in rows([2])]
        with pytest.raises(DataError, match=f"--map {missing}"):
            si.rebalance(made, "rp", out)
    assert not out.exists()


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes the file and says how many rows of how many right answers."""
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "mine.jsonl", rows([4, 1, 0]))
    runner = CliRunner()
    words = ["rebalance", "mine.jsonl", "--strategy", "rp", "--out", "train.jsonl"]
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "train.jsonl: 8 examples from 5 correct responses, 2 queries (rp, K = 4)" in shown.output
    assert isinstance(runner.invoke(app, words).exception, SiError)
    shown = runner.invoke(app, [*words, "--force", "--json"])
    assert json.loads(shown.stdout)["rows"] == 8
    words[3] = "gr"
    shown = runner.invoke(app, [*words, "--force"])
    assert "2 draws for 7 samples, 2 queries" in shown.output


# --- images --------------------------------------------------------------------------------


def seen(folder: Path, queries: int = 3, **more: Any) -> Path:
    """Rollouts about figures, as a trainer logs them: image tokens in prompts, no images."""
    folder.mkdir(exist_ok=True)
    made = [
        {
            "step": 1,
            "prompt": "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is figure "
            f"{q}?\nThink first.<|im_end|>\n<|im_start|>assistant\n",
            "completion": f"{q}",
            "accuracy_reward": float(j < 1),
            "advantage": 0.0,
        }
        | {name: make(q) for name, make in more.items()}
        for q in range(queries)
        for j in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(made), folder / "completions_00001.parquet")
    return folder


def figures(folder: Path, queries: int = 3, same: bool = False) -> Path:
    """The data set that they were sampled from."""
    folder.mkdir(exist_ok=True)
    for q in range(queries):
        Image.new("RGB", (40, 40), (q, 0, 0)).save(folder / f"{q}.png")
    made = [
        {"question": f"What is figure {0 if same else q}?", "answer": str(q), "image": f"{q}.png"}
        for q in range(queries)
    ]
    lines(folder / "train.jsonl", made)
    return folder


@pytest.mark.parametrize("layout", ["trl", "sharegpt", "verl", "swift"])
def test_rows_whose_images_are_missing_are_refused(layout: str, tmp_path: Path) -> None:
    """A prompt that shows an image needs one, and the way to get it is named."""
    out = tmp_path / f"train{SUFFIXES[layout][0]}"
    with pytest.raises(DataError, match="shows 1 image, but its row has none") as refused:
        si.rebalance(seen(tmp_path / "r"), "rp", out, format=layout)
    assert "--data FILE" in refused.value.ways_out[0] and not out.exists()


@pytest.mark.parametrize("layout", ["trl", "sharegpt", "verl", "swift"])
def test_images_are_joined(layout: str, tmp_path: Path) -> None:
    """--data gives each row the image of its question; tokens become one mark, or none in TRL."""
    out = tmp_path / f"train{SUFFIXES[layout][0]}"
    data = figures(tmp_path / "d")
    si.rebalance(seen(tmp_path / "r"), "rp", out, format=layout, data=str(data))
    for row in load(out):
        text = json.dumps(row.get("messages") or row.get("conversations") or row["prompt"])
        assert "image_pad" not in text and text.count("<image>") == (layout != "trl")
        number = int(text.partition("What is figure ")[2][0])
        (image,) = row["images"]
        raw = image["bytes"] if layout == "verl" else (tmp_path / image).read_bytes()
        assert raw == (data / f"{number}.png").read_bytes()


def test_equal_questions_need_an_id(tmp_path: Path) -> None:
    """Where question and answer fit several images, nothing is guessed; a finer id decides."""
    data = figures(tmp_path / "d", same=True)
    rollouts = seen(tmp_path / "r", 1)
    with pytest.raises(DataError, match=r"3 queries of .* fit the query"):
        si.rebalance(rollouts, "rp", tmp_path / "x.jsonl", data=str(data))
    named = seen(tmp_path / "n", 1, query_id=lambda q: 2)
    ids = {"query_id": "query_id"}
    si.rebalance(named, "rp", tmp_path / "y.jsonl", data=str(data), map=ids)
    (image,) = load(tmp_path / "y.jsonl")[0]["images"]
    assert (tmp_path / image).read_bytes() == (data / "2.png").read_bytes()


@pytest.mark.parametrize("copied", [False, True])
def test_paths_hold_from_the_new_file(copied: bool, tmp_path: Path) -> None:
    """Paths relative to the rollouts become relative to the new file, or the files are copied."""
    source = figures(tmp_path / "r") / "r.jsonl"
    made = [{"prompt": "<image>Find x.", "images": ["1.png"], "response": "2", "reward": 1}]
    lines(source, made)
    out = tmp_path / "elsewhere" / "train.json"
    out.parent.mkdir()
    si.rebalance(source, "vanilla", out, format="sharegpt", copy_images=copied)
    (image,) = load(out)[0]["images"]
    assert image.startswith("train-images/" if copied else "../r/")
    assert (out.parent / image).read_bytes() == (tmp_path / "r" / "1.png").read_bytes()
    si.rebalance(source, "vanilla", out.with_suffix(".parquet"), format="verl")
    assert load(out.with_suffix(".parquet"))[0]["images"][0]["bytes"].startswith(b"\x89PNG")


def test_what_a_trainer_needs(tmp_path: Path) -> None:
    """LLaMA-Factory's description is written once, and the command names folder and data set."""
    out = tmp_path / "mine.json"
    words = ["rebalance", str(plain(tmp_path)), "--format", "sharegpt", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"--dataset_dir {tmp_path} --dataset mine " in done.output
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["mine"]["columns"] == {"messages": "conversations"}
    other = si.rebalance(plain(tmp_path), "rp", tmp_path / "other.json", format="sharegpt")
    assert "Add to" in " ".join(other.notes) and '"other"' in " ".join(other.notes)


def test_trl_reads_the_rows_and_not_the_images_beside_them(tmp_path: Path) -> None:
    """TRL gets a configuration that names the file: of its folder, `datasets` takes the images."""
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out" / "train.jsonl"
    out.parent.mkdir()
    data = str(figures(tmp_path / "d"))
    words = ["rebalance", str(seen(tmp_path / "r")), "--data", data, "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"cd {out.parent} && trl sft --config train.trl.yaml " in done.output
    (one,) = yaml.safe_load(out.with_suffix(".trl.yaml").read_text())["datasets"]
    rows = datasets.load_dataset(**one, split="train", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "completion", "images"} == set(rows.column_names)
    out.unlink()
    assert CliRunner().invoke(app, words).exit_code == 0  # the same configuration is no obstacle
    out.unlink()
    out.with_suffix(".trl.yaml").write_text("learning_rate: 1\n")
    assert isinstance(CliRunner().invoke(app, words).exception, OutputError)
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0
