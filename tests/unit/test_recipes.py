"""The shipped recipes for the paper's two models can be used as they are, and planned offline."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from si.cli import app
from si.cli.options import resolve, settings_of
from si.config.place import Place
from si.config.recipe import Recipe, differences
from si.config.release import Release
from si.datasets.columns import parse_map
from si.datasets.splits import Splits

ROOT = Path(__file__).parents[2]
NAMES = sorted(p.stem for p in (ROOT / "jobs/recipes").glob("*-k*.yaml"))
MODELS = ("qwen2-vl-7b", "internvl2.5-4b")


def load(name: str) -> tuple[Recipe, Place]:
    return resolve(name, None, {})


def test_both_models_ship_at_both_ks() -> None:
    """K = 8 and K = 16 of a model differ in nothing but K, so that doubling it is a paired
    question; each is called after its file."""
    assert [f"{model}-k{k}" for model in sorted(MODELS) for k in (16, 8)] == NAMES
    for model in MODELS:
        eight, sixteen = (load(f"{model}-k{k}")[0] for k in (8, 16))
        assert differences(eight, sixteen) == ["k: 8 -> 16"]
        assert eight.run_name == f"{model.replace('.', '-')}-gr-k8-s0"


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_fit_together(name: str) -> None:
    """The import's options can be read, a picture and a response fit into an example, and a
    training shares its micro-batches evenly over the GPUs that it requires, or up to 16."""
    recipe, place = load(name)
    assert recipe.sampling.engine == "vllm" and recipe.train.trainer == "deepspeed"
    assert {recipe.sampling.dtype, recipe.train.dtype} == {"bfloat16"}
    assert parse_map(recipe.data.map)["choices"] == ""
    assert Splits.parse(recipe.data.split).deal("test", b"") == "test"
    assert recipe.sampling.image_tokens
    room = recipe.train.max_length - recipe.sampling.max_new_tokens
    assert room >= recipe.sampling.image_tokens + 256
    assert (
        "\\boxed{}" in recipe.sampling.prompt_template and "\n" in recipe.sampling.prompt_template
    )
    requires = settings_of(name, None, {}).requires
    assert requires.explore.gpus == 1 and requires.train.gpu_memory == 40
    for gpus in (requires.train.gpus, 2, 4, 8, 16):
        assert recipe.train.batch % (gpus * recipe.train.micro_batch) == 0
    # It sets nothing of the place: the release decides, or the defaults do.
    assert place == Place()
    release = Release("si", {"kubernetes": {"explore": {"image": "registry/explore:1"}}})
    there = settings_of(name, None, {}, release)
    assert there.place.kubernetes.explore.image == "registry/explore:1" and not there.changes


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--dry-run plans every stage without a hub, and names the data and the policy as missing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = CliRunner().invoke(app, ["iterate", "--recipe", name, "--dry-run"])
    assert done.exit_code == 0, done.output
    for stage in ("it01/explore", "it05/resample", "it05/train", "it05/report"):
        assert stage in done.output
    assert "Missing: data: hub:hiyouga/geometry3k" in done.output
    assert "Missing: policy 0: " in done.output
    assert not list(tmp_path.iterdir())
