"""`si-ctl init`: questions, refusals, the recipe, and the commands that it prints."""

import json
import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from si.config.draft import Draft, text
from si.config.loading import load_settings
from tests.loop.running import SI_CTL, environment, si_ctl, si_ctl_process
from tests.unit.layouts import picture

MODEL = "Qwen/Qwen2-VL-7B-Instruct"
FLAGS = ("--model", MODEL, "--gpus", "8", "--gpu", "A100", "--price", "2")


def imported(folder: Path, *splits: str) -> str:
    """The address of a data set with a few rows in each split, in the store of `folder`."""
    words = []
    for number, split in enumerate(splits):
        (folder / split).mkdir()
        (folder / split / "1.png").write_bytes(picture(number))
        row = {"question": f"How many {number}?", "answer": "3", "image": "1.png"}
        (folder / split / "rows.jsonl").write_text(json.dumps(row) + "\n")
        words.append(f"{split}={split}/rows.jsonl")
    done = si_ctl("data", "import", *words, "--name", "mine", "--store", "a store", cwd=folder)
    return done.stdout.split()[-1]


def test_the_recipe_is_checked_and_its_commands_can_be_pasted(tmp_path: Path) -> None:
    """From flags alone: a recipe with comments, its cost, and commands that run as printed."""
    address = imported(tmp_path, "train", "dev", "test")
    words = ("init", "my recipe.yaml", "--data", "mine", *FLAGS, "--store", "a store")
    done = si_ctl_process(*words, cwd=tmp_path)
    written = (tmp_path / "my recipe.yaml").read_text()
    tree = yaml.safe_load(written)
    assert (tree["data"]["source"], tree["model"]["source"]) == (address, MODEL)
    assert tree["place"] == {"gpus": 8, "gpu_type": "A100", "price_per_gpu_hour": 2}
    assert written.count("#") > 15
    assert re.search(r"Estimate for 8 GPUs \(A100\): .* rented, which cost \d+\.", done.stdout)
    printed = [shlex.split(line) for line in re.findall(r"si-ctl (\w+ --recipe.*)", done.stdout)]
    assert [words[0] for words in printed] == ["estimate", "doctor", "iterate", "iterate"]
    for command in (printed[0], printed[2]):
        assert si_ctl(*command, cwd=tmp_path).returncode == 0
    assert "OK; run name qwen2-vl-7b-gr-k8-s0" in (
        si_ctl("config", "check", "my recipe.yaml", cwd=tmp_path).stdout
    )
    again = si_ctl(*words, cwd=tmp_path, check=False)
    assert again.returncode == 2 and "--force" in again.stderr


def test_it_asks_at_a_terminal(tmp_path: Path) -> None:
    """At a terminal at most five questions are asked, of which Return takes the defaults."""
    ours, theirs = pty.openpty()
    os.write(ours, b"\nhiyouga/geometry3k\n4\nH100\n\n")
    done = subprocess.run(
        [SI_CTL, "init"],
        cwd=tmp_path,
        env=environment(),
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert tree["data"]["source"] == "hub:hiyouga/geometry3k"
    assert tree["model"]["source"] == MODEL
    assert tree["place"] == {"gpus": 4, "gpu_type": "H100", "price_per_gpu_hour": 0}
    assert "which cost" not in done.stdout and "GPU hours rented" in done.stdout


def test_refusals(tmp_path: Path) -> None:
    """Without a terminal what is missing is named; nothing is written that cannot be used."""
    imported(tmp_path, "train", "test")
    data = ("--data", "hiyouga/geometry3k")

    def refused(*words: str) -> str:
        done = si_ctl("init", *words, "--store", "a store", cwd=tmp_path, check=False)
        assert done.returncode in (2, 3), done.stdout
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    said = refused("--model", MODEL, "--gpus", "8")
    assert "--data DATA --gpu GPU --price PRICE" in said
    assert "has no dev queries" in refused("--data", "mine", *FLAGS)
    assert "si-ctl data import train --store 'a store'" in refused("--data", "train", *FLAGS)
    assert "unknown strategy 'best'" in refused(*data, *FLAGS, "--strategy", "best")
    assert "is not a YAML file" in refused("recipe.json", *data, *FLAGS)
    assert not list(tmp_path.glob("recipe*"))


@pytest.mark.parametrize("model", [MODEL, "OpenGVLab/InternVL2_5-4B", "./my: model", "x/{y}"])
@pytest.mark.parametrize("gpu", ["A10", "B200", "something new"])
def test_every_draft_is_a_recipe(model: str, gpu: str, tmp_path: Path) -> None:
    """Whatever names there are, the text is a recipe that asks for the form the judge reads."""
    for data in ("hub:a/b", "data/mine-0123456789ab"):
        made = Draft(model, data, 2, gpu, 24 if gpu == "A10" else None, 1.5, "gr+tc", 16)
        path = tmp_path / "recipe.yaml"
        path.write_text(text(made))
        settings = load_settings(path, environment={})
        recipe, place = settings.recipe, settings.place
        assert (recipe.model.source, recipe.data.source) == (model, data)
        assert (place.gpus, place.gpu_type, place.price_per_gpu_hour) == (2, gpu, 1.5)
        assert recipe.sampling.prompt_template.endswith("\\boxed{}.")
        assert recipe.train.micro_batch == (1 if gpu == "A10" else 4)
