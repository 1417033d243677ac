"""Settings as the stages hand them to engines."""

from typing import Any

from si.config.recipe import Sampling, Train
from si.engines.port import PromptSettings, TrainSettings


def training(
    steps: int | None = None, prompts: PromptSettings | None = None, **train: Any
) -> TrainSettings:
    """A trainer's settings, validated as in a recipe: `training(steps=3, lr=1e-3)`."""
    return TrainSettings(Train.model_validate(train), steps, prompts or PromptSettings())


def sampling(**more: Any) -> Sampling:
    """A sampler's settings, validated as in a recipe: `sampling(temperature=0.0)`."""
    return Sampling.model_validate(more)
