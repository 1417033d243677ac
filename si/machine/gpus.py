"""The GPUs of this machine, found without torch, and how engines share them out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from si.errors import RecipeError

MASK = "CUDA_VISIBLE_DEVICES"
DEVICES = Path("/dev")


def visible(asked: int | None, environment: Mapping[str, str]) -> list[str]:
    """The GPUs to use, as CUDA_VISIBLE_DEVICES names them.

    Args:
        asked: how many (`place.gpus`); None for all. Where no mask is set it is believed.
        environment: its CUDA_VISIBLE_DEVICES is respected, numbers, GPU and MIG names alike.

    Raises:
        RecipeError: if the mask leaves fewer than `asked`.
    """
    mask = environment.get(MASK)
    if mask is None:
        return [str(number) for number in range(count() if asked is None else asked)]
    names: list[str] = []
    for name in map(str.strip, mask.split(",")):
        if not name or name.startswith("-"):  # CUDA, too, ignores what comes after
            break
        names.append(name)
    if asked is None:
        there = count()
        return [name for name in names if not name.isdecimal() or int(name) < there]
    if asked > len(names):
        raise RecipeError(
            f"place.gpus asks for {asked} GPUs, and {MASK} leaves {len(names)}",
            f"{MASK}={mask}",
            f"Lower place.gpus, or widen {MASK}.",
        )
    return names[:asked]


def count() -> int:
    """How many GPUs this process may use, as the driver reports; without a driver, how many device
    files there are. In a container both count its GPUs alone."""
    found = _ask_driver(lambda nvml: nvml.nvmlDeviceGetCount())
    if found is not None:
        return int(found)
    return sum(path.name[len("nvidia") :].isdecimal() for path in DEVICES.glob("nvidia*"))


def kind() -> str:
    """The name of this machine's first GPU (`NVIDIA A100-SXM4-80GB`); empty if unknown."""
    return (
        _ask_driver(lambda nvml: nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))) or ""
    )


def _ask_driver(question: Callable[[Any], Any]) -> Any:
    """What NVIDIA's driver answers; None without a driver, or if it fails."""
    import pynvml  # large, and of no use before GPUs are looked for

    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def groups(gpus: Sequence[str], size: int) -> list[list[str]]:
    """Disjoint groups of `size` GPUs, one for each engine; what is left over stays idle.

    Raises:
        RecipeError: if there are not enough for one.
    """
    if size > len(gpus):
        raise RecipeError(
            f"An engine asks for {size} GPUs, and there are {len(gpus)}",
            f"place.tensor_parallel, or SICTL_VLLM_TENSOR_PARALLEL_SIZE, is {size}; "
            f"GPUs: {', '.join(gpus)}",
            "Lower it, or give more GPUs (place.gpus, CUDA_VISIBLE_DEVICES).",
        )
    return [list(gpus[at : at + size]) for at in range(0, len(gpus) - size + 1, size)]
