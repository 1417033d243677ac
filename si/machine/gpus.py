"""The GPUs of this machine, found without torch, and how engines share them out."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    """How many GPUs this process may use, as the driver's own library says; without that, as many
    as there are device files. A container sees its own only, in both."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        number = ctypes.c_uint(0)
        if nvml.nvmlInit_v2() == 0:
            failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
            nvml.nvmlShutdown()
            if not failed:
                return number.value
    except (OSError, AttributeError):
        pass
    return sum(path.name[len("nvidia") :].isdecimal() for path in DEVICES.glob("nvidia*"))


def kind() -> str:
    """The name of this machine's first GPU (`NVIDIA A100-SXM4-80GB`); empty if nobody says it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        device, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0:
            failed = nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
            failed = failed or nvml.nvmlDeviceGetName(device, name, 96)
            nvml.nvmlShutdown()
            return "" if failed else name.value.decode(errors="replace")
    except (OSError, AttributeError):
        pass
    return ""


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
