"""What GPUs and models can do, by public sources: the figures that `si-ctl estimate` starts from.

Peaks and bandwidths are the vendors'. Throughputs of sampling and training are published
measurements, with their sources; derivations are documented where they are made. Your own run
replaces them (`--calibrate`). Every figure has a source.
"""

from typing import Any, NamedTuple

from si.machine.data_sheets import GPUS, Gpu

BEFORE_HOPPER = ("A100", "A10", "L40S", "L4")


# --- sampling ------------------------------------------------------------------------------


class Served(NamedTuple):
    """A measured load: seconds that one GPU took for this many prompt and sampled tokens."""

    prompt: int
    sampled: int
    seconds: float


SAMPLING_SOURCE = (
    "github.com/gpustack/gpustack, docs/performance-lab/qwen3-14b: vLLM 0.11.0, bfloat16, one GPU, "
    "its ShareGPT and random-2K rows"
)
SAMPLING_WEIGHTS = 14.8e9  # of Qwen3-14B, by its model card
SAMPLING = {
    "A100": (Served(217393, 201605, 106.82), Served(998175, 50000, 175.66)),
    "H100": (Served(217393, 201648, 63.53), Served(998175, 50000, 98.91)),
}


class Sampling(NamedTuple):
    """How fast a GPU samples: prompts as a share of its peak, sampled tokens as weights read per
    second (weights x tokens/s), and the source."""

    prompts: float
    passing: float
    source: str


def sampling(gpu: Gpu) -> Sampling:
    """The rates that explain both measured loads of the GPU, or of the most similar one.

    seconds = prompt / (share x peak / 2 weights) + sampled / (passing / weights), two loads, two
    unknowns. Another GPU takes the prompt share of the similar one (A100 before Hopper, else
    H100) and its weights per second, scaled by memory bandwidth, which bounds decoding.
    """
    like = "A100" if gpu.name in BEFORE_HOPPER else "H100"
    measured = next(g for g in GPUS if g.name == like)
    one, other = SAMPLING[like]
    determinant = one.prompt * other.sampled - other.prompt * one.sampled
    a_prompt = (one.seconds * other.sampled - other.seconds * one.sampled) / determinant
    a_sample = (one.prompt * other.seconds - other.prompt * one.seconds) / determinant
    share = 2 * SAMPLING_WEIGHTS / a_prompt / measured.peak
    passing = SAMPLING_WEIGHTS / a_sample
    if gpu == measured:
        return Sampling(share, passing, SAMPLING_SOURCE)
    ratio = gpu.bandwidth / measured.bandwidth
    why = f"derived from the {like} by peak and memory bandwidth ({SAMPLING_SOURCE})"
    return Sampling(share, passing * ratio, why)


# --- training ------------------------------------------------------------------------------

TRAINING_SOURCE = (
    "lmms-engine.readthedocs.io, reference/mfu: Qwen2.5-VL-7B with images, packed, on A800, 0.30 "
    "to 0.40"
)
TRAINING_SHARE = 0.35  # of an A100's peak; an A800 has the same
HOPPER_SOURCE = (
    "its MFU over an A100's, 42.8 to 58.0 %: github.com/mosaicml/llm-foundry, "
    "scripts/train/benchmarking, 7b with 1024 tokens"
)
HOPPER_OVER_AMPERE = 42.83 / 58.01


def training(gpu: Gpu) -> tuple[float, str]:
    """The share of its peak that a GPU reaches in training (MFU), and the source."""
    if gpu.name in BEFORE_HOPPER:
        like = "" if gpu.name == "A100" else "as an A100: "
        return TRAINING_SHARE, like + TRAINING_SOURCE
    return TRAINING_SHARE * HOPPER_OVER_AMPERE, f"{TRAINING_SOURCE}; times {HOPPER_SOURCE}"


# --- data -----------------------------------------------------------------------------------


class Split(NamedTuple):
    """Numbers of queries in a published data set, and its size in bytes."""

    train: int
    dev: int
    test: int
    bytes: int
    source: str


DATASETS = {
    "hiyouga/geometry3k": Split(
        2101, 300, 601, 61_436_373, "huggingface.co/datasets/hiyouga/geometry3k"
    ),
}

# The Beta distribution of pass rates that reproduces the paper's two shares of vanilla's training
# data: 51.1 % of the successes where p >= 0.8, 1.5 % where p < 0.2 (arXiv 2510.26474). Levels are
# measured with few samples, so this is a stand-in, not the paper's own distribution.
PASS_RATE, SPREAD = 0.638, 2.195
FITTED = "the paper's shares of head and tail, 51.1 and 1.5 %, fitted by a Beta distribution"

# The embedded policy and data on this project's machine: `estimate --calibrate` on the default run.
EMBEDDED_SOURCE = "the default run on two shared cores without a GPU, 2026-11-25"
EMBEDDED: dict[str, Any] = {
    "queries": 200,
    "held_out": 700,
    "levels_known": True,
    "pass_rate": 0.808,
    "spread": 1.09,
    "guided": 0.517,
    "continued": 0.483,
    "prompt": 28.6,
    "pictures": 0.0,
    "response": 19.2,
    "response_second": 29.3,
    "response_scored": 27.8,
    "prompt_seconds": 0.00041,
    "token_seconds": 0.00036,
    "trained_seconds": 0.00017,
    "explore_start": 2.3,
    "train_start": 1.05,
    "verify_start": 0.53,
    "verdict_seconds": 0.0027,
    "stage_seconds": 0.42,
    "between": 0.8,
    "token_bytes": 3.25,
    "verdict_bytes": 17.3,
    "policy_bytes": 3096921,
    "base_bytes": 3096873,
    "data_bytes": 4381480,
}
