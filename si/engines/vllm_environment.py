"""How wide vLLM's engine is, from environment variables.

Width belongs to the place, not to the recipe: it changes no key. `SICTL_VLLM_<NAME>` sets vLLM's
own argument of that name.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from si.errors import RecipeError

PREFIX = "SICTL_VLLM_"
HANG = "SICTL_VLLM_HANG_SECONDS"
ARGUMENTS: dict[str, Callable[[str], Any]] = {
    "block_size": int,
    "enforce_eager": lambda text: bool(json.loads(text.lower())),
    "gpu_memory_utilization": float,
    "max_model_len": int,
    "max_num_batched_tokens": int,
    "max_num_seqs": int,
    "tensor_parallel_size": int,
}


def engine_arguments(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The engine's arguments that environment variables set.

    Raises:
        RecipeError: if a variable has an unknown name or a value of the wrong type.
    """
    found: dict[str, Any] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable == HANG:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in ARGUMENTS:
            known = ", ".join(PREFIX + argument.upper() for argument in ARGUMENTS)
            raise RecipeError(f"{variable} is not a setting of the engine", f"known: {known}")
        try:
            found[name] = ARGUMENTS[name](environment[variable])
        except ValueError as error:
            raise RecipeError(
                f"{variable}={environment[variable]} has a value of the wrong type", str(error)
            ) from error
    return found


def hang_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds without progress after which an engine counts as hung; 600 by default. Its start
    may take three times as long.

    Raises:
        RecipeError: if the variable is not a number above 0.
    """
    text = environment.get(HANG) or "600"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise RecipeError(f"{HANG}={text} is not a number of seconds above 0")
    return seconds
