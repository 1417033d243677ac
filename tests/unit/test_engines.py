"""Engines by name: what a recipe may say of them, and what of it is in a stage's key."""

import importlib.util
from typing import Any, cast

import pytest

from si.config.recipe import Recipe
from si.engines.port import Sampler
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
