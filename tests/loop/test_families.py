"""A policy of another family than the embedded one's goes round the loop with the real engines."""

import json
from pathlib import Path

import pytest
import yaml

from si.datasets.dataset import Dataset
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.running import si_ctl, si_ctl_process
from tests.loop.tiny import tiny_data
from tests.unit import kin, tiny
from tests.unit.hub import serving
from tests.unit.layouts import hub_parquet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def iterate(folder: Path, family: str, **more: dict) -> dict[str, dict]:
    """One iteration of gr to a report; the stages' facts by entry."""
    recipe = {
        "name": family.replace("_", "-"),
        "iterations": 1,
        "k": 4,
        "data": {
            "source": tiny_data(FolderStore(folder / "si-runs")),
            "schedule": "fixed",
        },
        "model": {"source": str(kin.build(family, folder / family))},
        "sampling": {"max_new_tokens": 24, "prompt_template": "Add up {question}\nStep by step."},
        "verify": {"judge": "tests.loop.lenient:half"},
        "train": {"batch": 16, "micro_batch": 8, "lr": 1e-3},
        "levels": {"k": 0},
    }
    for section, settings in more.items():
        recipe[section] |= settings
    path = folder / f"{family}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    si_ctl("iterate", "--recipe", str(path), "--workers", "1", cwd=folder)
    name = f"{recipe['name']}-gr-k4-s0"
    tree = json.loads(si_ctl("status", name, "--json", cwd=folder).stdout)
    return {s["entry"]: s["facts"] for i in tree["iterations"] for s in i["stages"]}


def test_internvl_goes_round(tmp_path: Path) -> None:
    """InternVL, with two pictures' tokens at most: sampled, guided, trained as LoRA, scored."""
    facts = iterate(
        tmp_path,
        "internvl",
        sampling={"image_tokens": 8},
        train={"lora": {"r": 4, "alpha": 8}},
    )
    assert facts["it01/explore"]["samples"] == 4 * 24 and not facts["it01/explore"]["dropped"]
    assert facts["it01/explore-2"]["samples"] > 0
    assert facts["it01/train"]["adapter"] and facts["it01/train"]["dropped"] == 0
    assert facts["it01/train"]["examples"] == facts["it01/rebalance"]["examples"]
    assert "it01/evaluate" in facts


def geometry(numbers: range) -> list[dict]:
    """Rows in the columns of hiyouga/geometry3k, whose answers are no letters of its choices."""
    return [
        {
            "images": [{"bytes": tiny.picture(n), "path": None}],
            "problem": f"<image>Find x in figure {n}.",
            "answer": f"{n} \\sqrt {{ 2 }}" if n % 2 else str(n),
            "id": n,
            "choices": [str(n), str(n + 1)],
            "ground_truth": "A",
        }
        for n in numbers
    ]


def test_a_shipped_recipe_is_one_command(tmp_path: Path) -> None:
    """The recipe of the 7B, as it ships: data and policy 0 come from the hub by their names, and
    the loop goes round. The policy is tiny, the engines those of a laptop, the rest smaller."""
    root = tmp_path / "hub"
    splits = {"train": geometry(range(12)), "validation": geometry(range(12, 16))}
    splits["test"] = geometry(range(16, 20))
    hub_parquet(root / "datasets/hiyouga/geometry3k", splits)
    kin.build("qwen2_vl", root / "models/Qwen/Qwen2-VL-7B-Instruct")
    words = ["iterate", "--recipe", "qwen2-vl-7b-k8", "--strategy", "rp", "--iterations", "1"]
    for setting in (
        *("sampling.engine=transformers", "train.trainer=transformers", "levels.k=0"),
        *("sampling.max_new_tokens=24", "train.batch=16", "verify.judge=tests.loop.lenient:half"),
    ):
        words += ["--set", setting]
    with serving(root, tmp_path / "cache") as (settings, _):
        si_ctl_process(*words, "--workers", "1", cwd=tmp_path, **settings)
    tree = json.loads(si_ctl("status", "qwen2-vl-7b-rp-k8-s0", "--json", cwd=tmp_path).stdout)
    stages = {s["entry"]: s for i in tree["iterations"] for s in i["stages"]}
    facts = stages["it01/explore"]["facts"]
    assert (facts["queries"], facts["samples"], facts["dropped"]) == (12, 96, 0)
    assert stages["it01/train"]["facts"]["adapter"] and "it01/report" in stages
    store = FolderStore(tmp_path / "si-runs")
    data = Dataset(Artifact.open(store, stages["it00/data"]["address"]))
    answers = set(data.table(columns=["answer", "answer_kind"])["answer"].to_pylist())
    assert {"3 \\sqrt { 2 }", "4"} <= answers and "A" not in answers
