"""A policy of another family than the embedded one's goes round the loop with the real engines."""

import json
from pathlib import Path

import pytest
import yaml

from si.adapters.folder import FolderStore
from tests.loop.running import si_ctl
from tests.loop.tiny import tiny_data
from tests.unit import kin

pytestmark = pytest.mark.timeout(900)


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
