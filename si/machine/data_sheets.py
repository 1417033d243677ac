"""What GPUs can do at most, by their makers' data sheets."""

import re
from typing import NamedTuple

GIGA, TERA = 1e9, 1e12


class Gpu(NamedTuple):
    """A kind of GPU: dense bfloat16 FLOP/s and bytes of memory traffic per second, at most, and
    gigabytes of memory (of the largest variant)."""

    name: str
    peak: float
    bandwidth: float
    memory: int


# Makers' data sheets; where a sheet gives FLOP/s "with sparsity", half of it. The first whose name
# stands in a device's name is meant.
# A100: nvidia.com/en-us/data-center/a100; H100: .../h100; H200: .../h200; B200: .../dgx-b200 (an
# eighth of eight); L40S: .../l40s; L4: .../l4; A10: .../products/a10-gpu. Side by side:
# github.com/stas00/ml-engineering, compute/accelerator.
GPUS = (
    Gpu("H100 NVL", 835 * TERA, 3.9 * TERA, 94),
    Gpu("H100 PCIe", 756 * TERA, 2.0 * TERA, 80),
    Gpu("H100", 989 * TERA, 3.35 * TERA, 80),
    Gpu("H200 NVL", 835 * TERA, 4.8 * TERA, 141),
    Gpu("H200", 989 * TERA, 4.8 * TERA, 141),
    Gpu("GH200", 989 * TERA, 4.0 * TERA, 144),
    Gpu("B200", 2250 * TERA, 8.0 * TERA, 180),
    Gpu("A100", 312 * TERA, 2.0 * TERA, 80),
    Gpu("L40S", 362 * TERA, 0.864 * TERA, 48),
    Gpu("L4", 121 * TERA, 0.3 * TERA, 24),
    Gpu("A10", 125 * TERA, 0.6 * TERA, 24),
)


def gpu_of(device: str) -> Gpu | None:
    """The GPU that a device's name, or a user's word, means; None if we do not know it."""
    found = (g for g in GPUS if re.search(rf"\b{g.name}\b", device, re.IGNORECASE))
    return next(found, None)


def memory_of(device: str) -> int | None:
    """Gigabytes of memory of a GPU, by a name such as `A100` or `NVIDIA A100-SXM4-40GB`, or a slice
    such as `mig-3g.40gb`; None if we do not know it."""
    if stated := re.search(r"(\d+) ?GB\b", device, re.IGNORECASE):
        return int(stated[1])
    found = gpu_of(device)
    return found.memory if found else None


def peak(device: str, dtype: str) -> float | None:
    """The device's peak in FLOP/s; None where we do not know it, and for float32."""
    found = gpu_of(device)
    return found.peak if found and dtype == "bfloat16" else None
