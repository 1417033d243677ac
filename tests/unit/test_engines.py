"""Engines by name: what a recipe may say of them, and what of it is in a stage's key."""

import importlib.util
from typing import Any, cast

import pytest

from si.config.recipe import Recipe
from si.engines.port import Sampler
from si.engines.vllm_environment import engine_arguments, hang_seconds
from si.errors import RecipeError
from si.plugins import load, load_class
from si.stages import STAGES
from si.stages.explore import ENGINES
from si.stages.train import TRAINERS


def settings(**train: Any) -> dict[str, Any]:
    """The train stage's settings under a recipe."""
    recipe = Recipe.model_validate({"train": train})
    return cast(dict[str, Any], STAGES["train"].settings.of(recipe).identity()["train"])


def test_deepspeeds_settings_are_in_its_own_keys_only() -> None:
    """ZeRO stage and offload are part of what DeepSpeed computes, and of nothing else."""
    assert "deepspeed" not in settings()
    assert settings(deepspeed={"zero": 3}) == settings()
    assert settings(trainer="deepspeed")["deepspeed"]["zero"] == 2


@pytest.mark.parametrize(
    "asked",
    [{"zero": 1}, {"zero": 2, "offload": "parameters"}, {"zero": 0, "offload": "optimizer"}],
)
def test_what_deepspeed_cannot_do_is_refused(asked: dict[str, Any]) -> None:
    """A ZeRO stage that does not go with its offload is refused before anything runs."""
    with pytest.raises(ValueError, match="zero"):
        Recipe.model_validate({"train": {"trainer": "deepspeed", "deepspeed": asked}})


def test_plain_bfloat16_is_refused_with_deepspeed_only() -> None:
    """zero: 0 with bfloat16 is refused, but the plain trainer does not care."""
    train = {"dtype": "bfloat16", "deepspeed": {"zero": 0}}
    Recipe.model_validate({"train": train})
    with pytest.raises(ValueError, match="use 2 or 3"):
        Recipe.model_validate({"train": train | {"trainer": "deepspeed"}})


@pytest.mark.parametrize("name,known", [("vllm", ENGINES), ("deepspeed", TRAINERS)])
def test_an_engine_that_is_not_installed_is_named(name: str, known: dict[str, str]) -> None:
    """Without its library an engine is an error that says what to do, not a stack of imports."""
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(RecipeError, match=name) as caught:
        load("engine", name, known)
    assert "Install" in caught.value.ways_out[0]


class Stranger:
    """Has the methods of a sampler, perhaps, but does not derive from it."""


def test_a_class_that_is_not_an_engine_is_refused() -> None:
    """A custom engine derives from the base class, which shows what it may read and override."""
    with pytest.raises(RecipeError, match="does not derive from Sampler") as caught:
        load_class("engine", f"{__name__}:Stranger", ENGINES, Sampler)
    assert caught.value.detail == "expected a subclass of si.engines.port.Sampler"


def test_vllms_width_comes_from_the_environment() -> None:
    """SICTL_VLLM_* variables set the engine's arguments; an unknown or unreadable one is named."""
    given = {"SICTL_VLLM_MAX_NUM_SEQS": "64", "SICTL_VLLM_ENFORCE_EAGER": "True", "X": "1"}
    assert engine_arguments(given) == {"max_num_seqs": 64, "enforce_eager": True}
    for bad in ({"SICTL_VLLM_DTYPE": "half"}, {"SICTL_VLLM_MAX_NUM_SEQS": "many"}):
        with pytest.raises(RecipeError, match=next(iter(bad))):
            engine_arguments(bad)


def test_how_long_an_engine_may_hang() -> None:
    """Ten minutes by default; anything but a number above 0 is refused."""
    assert hang_seconds({}) == 600
    assert hang_seconds({"SICTL_VLLM_HANG_SECONDS": "2.5"}) == 2.5
    for bad in ("0", "inf", "soon"):
        with pytest.raises(RecipeError, match="above 0"):
            hang_seconds({"SICTL_VLLM_HANG_SECONDS": bad})
