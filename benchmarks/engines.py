"""Our vLLM worker against bare `LLM.generate`: tokens per second, in one process and engine.

    .venv-engines/bin/python benchmarks/engines.py [--queries 150] [--k 8] [--rounds 5]

Both get the same questions, images, seeds and limits and return log-probabilities. Bare
means one call with a list of K prompts a query. Decoding images and rendering chat templates
is part of both, and no cache is warm. The two take turns, and who begins changes; ratios are
medians of the rounds' own. Beside wall time stands processor time, which other loads of the
machine disturb less. Rows without seeds (n=K; the worker's stay), and with guided prefixes, are
the same comparison.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from si.engines.vllm import VllmSampler  # first: it sets what torch reads when it is loaded

# isort: split
from si.config.recipe import Recipe
from si.datasets.dataset import Dataset
from si.datasets.sources import synth
from si.embedded import EMBEDDED_POLICY
from si.engines.hf import decode_images
from si.randomness import keyed_seed
from si.records import Request
from si.store.artifact import Artifact
from si.store.folder import FolderStore


def requests(count: int, k: int) -> list[Request]:
    """The first queries of the embedded training split, with K seeds each."""
    with tempfile.TemporaryDirectory() as folder:
        store = FolderStore(Path(folder))
        data = Dataset(Artifact(store, synth(store, "synth:embedded", {})))
        selected = data.select([{"split": "train", "start": 0, "stop": count}])
        queries = list(data.queries(selected))
        images = data.images(query.query_id for query in queries)
    return [
        Request(
            query.question,
            images.get(query.query_id, ()),
            tuple(keyed_seed("bench", query.query_id, j) for j in range(k)),
        )
        for query in queries
    ]


def bare(sampler: VllmSampler, asked: Sequence[Request], seeds: bool) -> int:
    """Tokens of `LLM.generate`, given everything at once."""
    from vllm import SamplingParams

    prompts: list[Any] = []
    params: list[Any] = []
    for request in asked:
        images = decode_images(request.images)
        text = sampler.prompts.processor.apply_chat_template(
            sampler.prompts.turns(request.question, images),
            add_generation_prompt=True,
            tokenize=False,
        )
        ids = [*sampler.tokenizer(text).input_ids, *request.prefix_ids]
        names = [hashlib.sha256(data).hexdigest() for data in request.images]
        data = {"multi_modal_data": {"image": images}, "multi_modal_uuids": {"image": names}}
        common = {**sampler.common, "max_tokens": request.max_new_tokens}
        if seeds:
            for seed in request.seeds:
                prompts.append({"prompt_token_ids": ids, **(data if images else {})})
                params.append(SamplingParams(seed=seed, **common))
        else:
            prompts.append({"prompt_token_ids": ids, **(data if images else {})})
            params.append(SamplingParams(n=len(request.seeds), **common))
    sampler.llm.reset_prefix_cache()
    outputs = sampler.llm.generate(prompts, params, use_tqdm=False)
    return sum(len(said.token_ids) for output in outputs for said in output.outputs)


def worker(sampler: VllmSampler, asked: Sequence[Request]) -> int:
    """Tokens of our worker."""
    return sum(len(one.token_ids) for samples in sampler.sample(asked) for one in samples)


def speed(sampler: VllmSampler, work: Callable[[], int]) -> tuple[float, float]:
    """Tokens per second of one round, and per second of processor time."""
    sampler.llm.reset_mm_cache()
    sampler.engine.renderer._mm_processor_only_cache.clear_cache()
    wall, processor = time.perf_counter(), time.process_time()
    tokens = work()
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - processor)


def compare(
    sampler: VllmSampler,
    name: str,
    rounds: int,
    ours: Callable[[], int],
    theirs: Callable[[], int],
) -> None:
    pairs = []
    for turn in range(rounds + 1):
        order = (ours, theirs) if turn % 2 else (theirs, ours)
        speeds = {work: speed(sampler, work) for work in order}
        pairs.append((speeds[ours], speeds[theirs]))
    del pairs[0]  # it warms up
    wall, processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in range(2))
    one, two = (statistics.median(side[0] for side in sides) for sides in zip(*pairs, strict=True))
    each = " ".join(f"{a[0] / b[0]:.2f}" for a, b in pairs)
    print(
        f"{name:<22} {one:6.0f} tokens/s, LLM.generate {two:6.0f}: ratio {wall:.2f} ({each}); "
        f"by processor time {processor:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sampler = VllmSampler(EMBEDDED_POLICY, EMBEDDED_POLICY, Recipe().sampling)
    asked = requests(options.queries, options.k)
    whole = [samples[0].token_ids for samples in sampler.sample(asked)]
    guided = [
        replace(
            request,
            prefix_ids=ids[: len(ids) // 2],
            max_new_tokens=request.max_new_tokens - len(ids) // 2,
        )
        for request, ids in zip(asked, whole, strict=True)
    ]

    def row(name: str, some: Sequence[Request], seeds: bool = True) -> None:
        ours = lambda: worker(sampler, some)  # noqa: E731
        compare(sampler, name, options.rounds, ours, lambda: bare(sampler, some, seeds))

    row("own seeds", asked)
    row("against n=K, no seeds", asked, seeds=False)
    row("guided prefixes", guided)


if __name__ == "__main__":
    main()
