"""`si-ctl export`: a policy out of the store, whole or not at all, with a card about it."""

import json
import signal
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from si import __version__
from si.report.summary import Iteration, RunSummary
from si.runs.model_card import About, card
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from si.store.keys import Ref
from si.untrusted import one_line
from tests.loop.running import ROOT, artefacts, environment, si_ctl
from tests.loop.tiny import tiny_data, tiny_recipe

RUN = "sums-gr-k4-s0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run of the scripted engines."""
    folder = tmp_path_factory.mktemp("export")
    recipe = tiny_recipe(folder, tiny_data(FolderStore(folder / "si-runs")))
    si_ctl("iterate", "--recipe", str(recipe), cwd=folder)
    return folder


def export(place, *words, check=True):
    return si_ctl("export", RUN, *words, cwd=place, check=check)


def refused(done, *words, code=3):
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_every_file_is_the_one_that_was_committed(place, tmp_path):
    """The folder holds the policy's files byte for byte, and the card; --json says which policy."""
    done = export(place, "--iteration", "2", "--out", str(tmp_path / "out"), "--json")
    said = json.loads(done.stdout)
    address, content = artefacts(place / "si-runs", RUN)["it02/train"]
    assert (said["address"], said["content"], said["kind"]) == (address, content, "model")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    made = Artifact.open(FolderStore(place / "si-runs"), address)
    assert files == {blob.name for blob in made.blobs()} | {"README.md"}
    for blob in made.blobs():
        assert (tmp_path / "out" / blob.name).read_bytes() == made.read(blob.name)


def test_the_best_on_dev_unless_told_otherwise(place, tmp_path):
    """Without --iteration the policy is the one that the report calls best; last is the last."""
    report = json.loads(si_ctl("report", RUN, "--json", cwd=place).stdout)
    for words, expected in (((), report["best"]), (("--iteration", "last"), report["last"])):
        out = tmp_path / f"out-{len(words)}"
        said = json.loads(export(place, "--out", str(out), "--json", *words).stdout)
        assert said["iteration"] == expected
        scores = report["iterations"][expected]["scores"]
        assert said["scores"]["test"]["correct"] == scores["test"]["correct"]
        text = (out / "README.md").read_text()
        assert f"| test | {scores['test']['n']} | {scores['test']['correct']} |" in text


def test_card_says_where_it_comes_from(place, tmp_path):
    """The card has run, recipe, strategy, K, the data's address and digest, shares, versions."""
    export(place, "--iteration", "1", "--out", str(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    address, content = artefacts(place / "si-runs", RUN)["it00/data"]
    said = {"| run | sums-gr-k4-s0 |", "| recipe | sums |", "| strategy | gr |", "| K | 4 |"}
    said |= {f"| data | {address}, content {content} |", f"| made with | si-ctl {__version__} |"}
    said |= {"| share of | all | L1 |", "| examples |", "| made with | Python"}
    assert all(words in text for words in said), text
    found = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (found.license, found.pipeline_tag) == ("unknown", "image-text-to-text")
    assert found.base_model is None  # it is a folder here, which is no name of the hub
    assert found.model_name == RUN
    scores = json.loads(si_ctl("report", RUN, "--json", cwd=place).stdout)["iterations"][1][
        "scores"
    ]
    results = {result.dataset_split: result for result in found.eval_results}
    assert {split: result.metric_value for split, result in results.items()} == {
        split: round(part["accuracy"], 4) for split, part in scores.items()
    }
    for result in results.values():
        assert (result.metric_type, result.dataset_type) == ("accuracy", "local")
        assert result.dataset_name == address
        assert result.dataset_args == {"content": content}
    assert str(place) not in text


def test_what_is_there_stays(place, tmp_path):
    """A folder with something in it is refused; --force replaces a model, and nothing else."""
    out = tmp_path / "out"
    out.mkdir()
    export(place, "--out", str(out))  # empty: taken
    before = (out / "README.md").read_bytes()
    (out / "mine.txt").write_text("mine")
    refused(export(place, "--out", str(out), check=False), f"{out} is not empty", "--force", code=2)
    assert (out / "mine.txt").exists() and (out / "README.md").read_bytes() == before
    export(place, "--out", str(out), "--force")
    assert not (out / "mine.txt").exists() and (out / "README.md").read_bytes() == before
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters.txt").write_text("dear")
    refused(
        export(place, "--out", str(home), "--force", check=False),
        "does not contain a model",
        code=2,
    )
    refused(export(place, "--out", str(home / "letters.txt"), check=False), "not a folder", code=2)
    assert (home / "letters.txt").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


@pytest.mark.parametrize(
    "words,said",
    [
        (("--iteration", "7"), "has no finished iteration 7"),
        (("--iteration", "first"), "'first' is not a number"),
        (("--iteration", "1", "--merge"), "nothing to merge"),
    ],
)
def test_wrong_wishes_are_named(place, tmp_path, words, said):
    """What cannot be exported is refused by name, before anything is written."""
    refused(export(place, "--out", str(tmp_path / "out"), *words, check=False), said)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_on_the_way(place, tmp_path):
    """A file that is not what was committed stops the export, and nothing is left."""
    address, _ = artefacts(place / "si-runs", RUN)["it01/train"]
    (blob,) = Artifact.open(FolderStore(place / "si-runs"), address).blobs()
    file = place / "si-runs" / address / blob.path
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"!")
    try:
        done = export(place, "--iteration", "1", "--out", str(tmp_path / "out"), check=False)
    finally:
        file.write_bytes(whole)
    refused(done, "is damaged", "expected", "got")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from si.store.artifact import Artifact
from si.cli import main

def download(self, folder, shard=0):
    (folder / "config.json").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

Artifact.download = download
main()
"""


def test_killed_half_way_nothing_looks_whole(place, tmp_path):
    """A kill leaves no folder of the wanted name, and the next export clears what it left."""
    words = ["export", RUN, "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=place, env=environment())
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.part-")
    export(place, "--out", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


EVIL = "x | y\n# Heading\n<script>alert(1)</script> [l](javascript:1) ![i](http://e.vil/p) `a` $x$"


def test_names_do_nothing_in_a_card():
    """No name, address or setting becomes a tag, a link, a heading, a table cell or code."""
    scores = {"test": {"n": 2, "correct": 1, "accuracy": 0.5, "by_level": {}}}
    figures = {"total": 3, "share_by_level": {"L1": 1.0}}
    it = Iteration(1, scores, {}, {"successes": figures, "examples": figures})
    run = RunSummary(EVIL, 8, EVIL, (Iteration(0, scores, {}), it))
    ref = Ref(EVIL, EVIL)
    about = About(
        *(EVIL, 2, 1, EVIL, "model", EVIL, ref, ref, ref),
        facts={"steps": 1},
        settings={"name": EVIL, "sampling": {"system_prompt": EVIL + "\n\n```\n# out"}},
        made_with={EVIL: EVIL},
    )
    text = card(about, run)
    front = ModelCard(text).data  # which a name cannot end
    assert (front.license, front.model_name) == ("unknown", one_line(EVIL))
    parser = MarkdownIt("commonmark", {"linkify": False}).enable("table")
    tokens = parser.parse(text.split("---\n", 2)[2])
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "html_inline", "image", "fence"}
    links = [token.attrs["href"] for token in inline if token.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2510.26474"]
    titles = [
        tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert len(titles) == 7 and "Heading" not in "".join(titles[1:])
    tables = [token.map for token in tokens if token.type == "table_open"]
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(tables) == 3 and len(rows) == 2 + 3 + 11
    shown = "".join(child.content for child in inline if child.type == "text")
    assert "<script>alert(1)</script>" in shown
    body = text.split("---\n", 2)[2]
    assert "http://" not in body.split("## Recipe")[0]


def test_an_adapter_names_the_base_that_came_from_the_hub(tmp_path):
    """Policy 0's name and commit on the hub go into the card and the adapter's config."""
    from si.datasets.sources import commit
    from si.runs.export import _name_base, brought_as
    from si.store.commit import Output
    from si.store.keys import Spec

    store = FolderStore(tmp_path / "store")
    base = commit(
        store,
        Spec("fetch", "qwen", {}, {}, {}),
        lambda _: Output({"config.json": b"{}"}, 1, provenance={"source": "hf:owner/qwen@c0ffee"}),
    )
    name = brought_as(store, base)
    assert name == "owner/qwen@c0ffee"
    config = tmp_path / "adapter_config.json"
    config.write_text('{"r": 8, "base_model_name_or_path": null}')
    _name_base(config, name)
    said = json.loads(config.read_text())
    assert said == {"r": 8, "base_model_name_or_path": "owner/qwen", "revision": "c0ffee"}
    scores = {"test": {"n": 2, "correct": 1, "accuracy": 0.5, "by_level": {}}}
    run = RunSummary("gr", 8, "data/x", (Iteration(0, scores, {}),))
    ref = Ref("policies/x", "0")
    text = card(About("r", 1, 0, "last", "adapter", name, ref, ref, ref, {}, {}, {}), run)
    found = ModelCard(text).data
    assert (found.base_model, found.library_name) == ("owner/qwen", "peft")
    assert 'from_pretrained("owner/qwen", revision="c0ffee")' in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_exports_say_what_the_run_said(tmp_path):
    """A whole model, an adapter and that adapter merged load with transformers' own classes and
    answer greedily, token for token, as they did in the run."""
    small = ("--k", "2", "--iterations", "1", "--strategy", "rp", "--workers", "2", "--run", "x")
    small += ("--set", "data.slice_size=24", "--set", "evaluate.limit=4")
    small += ("--set", "evaluate.samples=1")
    si_ctl("iterate", *small, "--set", "train.lora.r=4", "--set", "train.lr=1e-2", cwd=tmp_path)
    base = ROOT / "si" / "embedded" / "policy"
    for words in (
        ("0", "--out", "model"),
        ("1", "--out", "adapter"),
        ("1", "--out", "named", "--base", str(base)),
        ("1", "--out", "merged", "--merge"),
    ):
        si_ctl("export", "x", "--iteration", *words, cwd=tmp_path)
    assert ModelCard.load(tmp_path / "adapter" / "README.md").data.library_name == "peft"
    before, after = (greedy(tmp_path, t) for t in (0, 1))
    assert before != after
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText as Auto

    folders = {name: str(tmp_path / name) for name in ("model", "adapter", "named", "merged")}
    models = {
        "model": Auto.from_pretrained(folders["model"]),
        "adapter": PeftModel.from_pretrained(Auto.from_pretrained(base), folders["adapter"]),
        "named": Auto.from_pretrained(folders["named"]),
        "merged": Auto.from_pretrained(folders["merged"]),
    }
    for name, model in models.items():
        said = before if name == "model" else after
        assert answers(model, folders[name], said) == said, name


def greedy(folder, t):
    """(question, images) -> what the policy of iteration t said to it."""
    from si.datasets.dataset import Dataset

    store = FolderStore(folder / "si-runs")
    where = {entry: address for entry, (address, _) in artefacts(folder / "si-runs", "x").items()}
    data = Dataset(Artifact.open(store, where["it00/data"]))
    table = Artifact.open(store, where[f"it{t:02d}/evaluate-explore"]).tables("rollouts.parquet")
    text = dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    images = data.images(text)
    rows = [row for row in data.table().to_pylist() if row["query_id"] in text]
    assert len(rows) == 8
    return {(r["question"], tuple(images[r["query_id"]])): text[r["query_id"]] for r in rows}


def answers(model, folder, queries):
    """The same of a model, by transformers' own generate."""
    import io

    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    said = {}
    for question, images in queries:
        content = [{"type": "image", "image": Image.open(io.BytesIO(data))} for data in images]
        content.append({"type": "text", "text": question})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        ids = made[0, inputs["input_ids"].shape[1] :]
        said[question, images] = processor.tokenizer.decode(ids, skip_special_tokens=True)
    return said
