"""Policy 0 and data by their names on the hub: brought into the store once, as artefacts, for every
run of it; refused by name where they cannot be used or reached."""

import json
from pathlib import Path

import pytest
import yaml

from si.config.recipe import Recipe
from si.datasets.sources import dataset, policy
from si.errors import RecipeError
from si.run import WISH
from si.stages import STAGES
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from tests.loop.running import artefacts, si_ctl_process
from tests.loop.scripted import write_policy
from tests.unit import kin_chat
from tests.unit.hub import COMMIT, serving
from tests.unit.layouts import hub_parquet, picture

# Each command is a process: the hub's library reads its settings when it is imported.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}


def sums(numbers: range) -> list[dict]:
    """Rows in the columns of geometry3k, of sums that the scripted policy can do."""
    return [
        {
            "images": [{"bytes": picture(n), "path": None}],
            "problem": f"<image>{n}+{n % 7}",
            "answer": str(n + n % 7),
            "choices": ["1", "2"],
        }
        for n in numbers
    ]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with a data set, a model that the scripted engines take, and one with its own code."""
    root = tmp_path_factory.mktemp("hub")
    splits = {"train": sums(range(24)), "validation": sums(range(24, 30))}
    hub_parquet(root / "datasets/me/geo", splits | {"test": sums(range(30, 36))})
    model = write_policy(root / "models/me/Policy-7B", 0.7)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "modeling_own.py").write_text("raise SystemExit('never run')")
    (model / "README.md").write_text("# Policy")
    old = root / "models/me/InternVL2_5-2B"
    old.mkdir()
    decoder = {"model_type": "internlm2"}
    told = {"model_type": "internvl_chat", "llm_config": decoder}
    (old / "config.json").write_text(json.dumps(told))
    (old / "model.safetensors").write_bytes(b"weights")
    kin_chat.build(root / "models/me/InternVL2_5-4B", tmp_path_factory.mktemp("twin") / "hf")
    (root / "models/me/InternVL2_5-4B/modeling_own.py").write_text("raise SystemExit('never run')")
    with serving(root, tmp_path_factory.mktemp("cache")) as (settings, asked):
        yield settings, asked


def recipe(folder: Path, **more: object) -> str:
    """A recipe file that names both by their names on the hub."""
    made = {
        "name": "geo",
        "iterations": 1,
        "k": 4,
        "data": {
            "source": "hub:me/geo",
            "map": "question=problem,choices=",
            "answer_kind": "number",
            "schedule": "fixed",
        },
        "model": {"source": f"me/Policy-7B@{COMMIT}"},
        "sampling": {"engine": "tests.loop.scripted:ScriptedSampler", "max_new_tokens": 120},
        "train": {"trainer": "tests.loop.scripted:ScriptedTrainer"},
        "levels": {"k": 0},
    } | more
    path = folder / "geo.yaml"
    path.write_text(yaml.safe_dump(made))
    return str(path)


def test_a_run_brings_what_its_recipe_names(hub, tmp_path):
    """Data and policy are fetched once, with their commit as provenance and no code; another run
    of the store, and a resumed one, need no hub any more."""
    settings, _ = hub
    made = recipe(tmp_path)
    si_ctl_process("iterate", "--recipe", made, "--strategy", "rp", cwd=tmp_path, **settings)
    ran = artefacts(tmp_path / "si-runs", "geo-rp-k4-s0")
    assert ran["it00/policy"][0].startswith("policies/policy-7b-")
    assert ran["it00/data"][0].startswith("data/geo-")
    store = FolderStore(tmp_path / "si-runs")
    for entry, name in (("it00/policy", "me/Policy-7B"), ("it00/data", "me/geo")):
        note = next((store.root / ran[entry][0] / "provenance").iterdir())
        assert json.loads(note.read_bytes())["source"] == f"hf:{name}@{COMMIT}"
    brought = Artifact.open(store, ran["it00/policy"][0])
    assert {blob.name for blob in brought.blobs()} == {"config.json", "model.safetensors"}
    away = NOWHERE | {"HF_HOME": str(tmp_path / "empty")}
    for strategy in ("rp", "vanilla"):
        si_ctl_process("iterate", "--recipe", made, "--strategy", strategy, cwd=tmp_path, **away)
    again = artefacts(tmp_path / "si-runs", "geo-vanilla-k4-s0")
    assert again["it00/policy"] == ran["it00/policy"] and again["it00/data"] == ran["it00/data"]


def test_fetched_for_a_run_without_a_hub(hub, tmp_path):
    """What `fetch` brings, who reaches no hub finds; before, it is said how."""
    settings, _ = hub
    made, store = recipe(tmp_path), FolderStore(tmp_path / "si-runs")
    asked = Recipe.model_validate(yaml.safe_load(Path(made).read_text()))
    wish = asked.pick(*WISH)
    for find in (
        lambda: dataset(store, wish, None),
        lambda: policy(store, asked.model.source, None),
    ):
        with pytest.raises(RecipeError, match="the hub cannot be reached") as raised:
            find()
        assert "si-ctl fetch" in raised.value.ways_out[0]
    told = json.loads(
        si_ctl_process("fetch", "--recipe", made, "--json", cwd=tmp_path, **settings).stdout
    )
    assert dataset(store, wish, None).spec.address == told["data"]
    assert policy(store, asked.model.source, None).spec.address == told["policy"]
    # And by address, as a recipe may name them too.
    assert policy(store, told["policy"], None).spec.address == told["policy"]


def test_a_plan_of_what_is_not_there_yet(tmp_path):
    """--dry-run needs no hub: it says what is not there yet, and what follows from that."""
    made = recipe(tmp_path)
    done = si_ctl_process("iterate", "--recipe", made, "--dry-run", cwd=tmp_path, **NOWHERE)
    assert "Missing: data: hub:me/geo is fetched from the hub" in done.stdout
    assert f"Missing: policy 0: me/Policy-7B@{COMMIT} is fetched" in done.stdout
    assert "it01/train" in done.stdout and "?" in done.stdout
    assert not (tmp_path / "si-runs").exists()
    absent = ("--set", "model.source=./nothing", "--set", "data.source=data/x-0123456789ab")
    done = si_ctl_process("iterate", "--recipe", made, "--dry-run", *absent, cwd=tmp_path)
    assert (
        "'./nothing' is neither a folder on this machine" in done.stdout
        and "it01/train" in done.stdout
    )


def test_a_checkpoint_with_code_of_its_own_is_converted(hub, tmp_path):
    """InternVL as it was first published becomes an artefact of transformers' classes; its code is
    not even fetched."""
    settings, asked = hub
    wish = ("--set", "model.source=me/InternVL2_5-4B", "--json")
    told = json.loads(si_ctl_process("fetch", *wish, cwd=tmp_path, **settings).stdout)
    brought = Artifact.open(FolderStore(tmp_path / "si-runs"), told["policy"])
    assert brought.json("config.json")["model_type"] == "internvl"
    names = {blob.name for blob in brought.blobs()}
    assert "chat_template.jinja" in names and not [n for n in names if n.endswith(".py")]
    assert not [path for path in asked if path.endswith(".py")]


def test_what_cannot_be_converted_is_refused_by_its_config(hub, tmp_path):
    """An InternVL of another kind is named before its weights are fetched."""
    settings, asked = hub
    wish = ("--set", "model.source=me/InternVL2_5-2B")
    done = si_ctl_process("fetch", *wish, cwd=tmp_path, check=False, **settings)
    assert done.returncode == 3 and "is 'internlm2'" in done.stderr, done.stderr
    assert not [path for path in asked if "InternVL2_5-2B" in path and "safetensors" in path]


@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        ("model.source=me/Nobody", 3, "no model of that name on the hub"),
        ("model.source=me/Policy-7B@v2", 3, "no model of that name on the hub"),
        ("data.source=hub:me/nothing", 3, "no data set of that name on the hub"),
    ],
)
def test_what_is_not_there_is_named(hub, tmp_path, wish, code, words):
    """A name that the hub does not have, or that is none, ends with a word on what to write."""
    settings, _ = hub
    done = si_ctl_process("fetch", "--set", wish, cwd=tmp_path, check=False, **settings)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_name_is_named(tmp_path):
    """What can be neither folder, name nor address is refused before anybody is asked."""
    store = FolderStore(tmp_path)
    with pytest.raises(RecipeError, match="neither a folder on this machine nor a name on the hub"):
        policy(store, "../x y", None)
    wish = Recipe().pick(*WISH) | {"data.source": "me/geo"}
    with pytest.raises(RecipeError, match="is not a data set") as raised:
        dataset(store, wish, None)
    assert "si-ctl data import me/geo" in raised.value.ways_out[0]


def test_a_hub_that_does_not_answer(tmp_path):
    """Where the hub cannot be reached, a run ends with exit code 4 and other ways."""
    away = NOWHERE | {"HF_HOME": str(tmp_path / "empty")}
    wish = ("--set", "model.source=Qwen/Qwen2-VL-7B-Instruct")
    done = si_ctl_process("iterate", *wish, cwd=tmp_path, check=False, **away)
    assert done.returncode == 4, done.stderr
    assert "cannot be reached" in done.stderr and "hf download Qwen" in done.stderr


def test_later_settings_are_in_keys_where_they_are_set():
    """At their defaults settings that came later are in no stage's key, so stored runs stay valid;
    each of those that a stage reads is in its key once it is set."""

    def settings(stage: str, **sections: dict) -> dict:
        return STAGES[stage].settings.of(Recipe.model_validate(sections)).identity()

    before = {
        "explore": {"seed", "sampling"},
        "train": {"train", "sampling.system_prompt"},
    }
    for stage in STAGES:
        made = settings(stage)
        assert made.keys() == before.get(stage, made.keys())
        assert not {"prompt_template", "image_tokens"} & made.get("sampling", {}).keys()
    report = settings("report")
    assert not {"map", "split", "answer_kind", "skip_bad"} & report["data"].keys()
    assert not {"packing", "liger"} & report["train"].keys() and "family" not in report["model"]
    new = {"packing", "cache_vision", "gradient_checkpointing", "liger"}
    assert not new & settings("train")["train"].keys()
    asked = settings("train", train={"packing": True, "gradient_checkpointing": True})
    assert new & asked["train"].keys() == {"packing", "gradient_checkpointing"}
    template = {"sampling": {"prompt_template": "{question} Think.", "image_tokens": 500}}
    assert settings("explore", **template)["sampling"]["image_tokens"] == 500
    assert settings("train", **template)["sampling.prompt_template"] == "{question} Think."
    own = settings("explore", model={"family": "si.engines.families.internvl:InternVL"})
    assert own["model.family"] and own["code"]
