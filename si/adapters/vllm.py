"""Sampling with vLLM: one engine a process, any number of sequences at once.

A query is rendered once (chat template, pictures) whatever the number of its samples; each
sample is a request of its own with its own seed, and they share the prompt by prefix caching.
Rendering runs in a thread ahead of the engine.

What is drawn for a seed depends on rounding, and so on which sequences are computed
together. This adapter feeds the engine in an order that depends on the request list and
the engine's progress alone and clears its prefix cache between calls; what then holds is
measured in docs/engines.md.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

# vLLM reads these when it is imported. Nothing is told to anybody, nothing is looked up.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
if not torch.cuda.is_available():
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
from vllm.v1.sample.logits_processor import LogitsProcessor

from si.adapters.transformers import (
    ADAPTER_CONFIG,
    conversation,
    decode,
    end_ids,
    forbidden_ids,
    is_adapter,
    load_processor,
    pictures,
)
from si.errors import RecipeError, SiError
from si.records import Request, Sampled

# How wide the engine is belongs to the place, not to the recipe: vLLM's own arguments, each
# from the variable SICTL_VLLM_<NAME>.
PREFIX = "SICTL_VLLM_"
KNOBS: dict[str, Callable[[str], Any]] = {
    "block_size": int,
    "enforce_eager": lambda text: bool(json.loads(text.lower())),
    "gpu_memory_utilization": float,
    "max_model_len": int,
    "max_num_batched_tokens": int,
    "max_num_seqs": int,
    "tensor_parallel_size": int,
}
RENDERED_AHEAD = 64
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VISION_TENSOR = re.compile(r"visual|vision|projector|merger")


class Forbidden(LogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Makes the tokens of `additional_config["forbidden_ids"]` impossible for every request."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        ids = vllm_config.additional_config["forbidden_ids"]
        self.ids = torch.tensor(ids, dtype=torch.long, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill_(1, self.ids, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing to keep: it is the same for all requests."""


def knobs(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Engine arguments that the place sets.

    Raises:
        RecipeError: for a variable that is none, or whose value is of the wrong kind.
    """
    found: dict[str, Any] = {}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
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


class VllmSampler:
    """`ports.Sampler` on vLLM.

    Args:
        policy: an HF folder, or a PEFT adapter folder, which is served on its base.
        base: policy 0; read only if `policy` is an adapter.
        settings: the recipe's `sampling` section; `batch` is the transformers engine's.
    """

    def __init__(self, policy: Path, base: Path, settings: dict[str, Any]):
        import transformers

        configs: Any = transformers.AutoConfig
        generations: Any = transformers.GenerationConfig
        folder = base if is_adapter(policy) else policy
        self.processor = load_processor(folder)
        self.tokenizer = self.processor.tokenizer
        self.system = settings["system_prompt"]
        config = configs.from_pretrained(folder, local_files_only=True)
        generation = generations()
        if (folder / "generation_config.json").exists():
            generation = generations.from_pretrained(folder, local_files_only=True)
        self.ends = end_ids(self.tokenizer, generation) - {None}
        self.longest = config.get_text_config().max_position_embeddings
        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": settings["dtype"],
            "seed": 0,
            "max_model_len": self.longest,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            "limit_mm_per_prompt": {"video": 0},
            "logits_processors": [f"{__name__}:{Forbidden.__name__}"],
            "additional_config": {
                "forbidden_ids": forbidden_ids(self.tokenizer, config, generation)
            },
        }
        if not torch.cuda.is_available():
            # It warns at every picture that the number of threads stays as it is.
            logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
            # Prefix caching on a CPU wants blocks of 32; compiling takes longer than it saves.
            arguments |= {"enforce_eager": True, "block_size": 32, "max_num_seqs": 128}
        self.lora: Any = None
        if is_adapter(policy):
            arguments |= {"enable_lora": True, "max_lora_rank": _lora_rank(policy)}
            self.lora = LoRARequest("policy", 1, str(policy))
        self.llm = LLM(**(arguments | knobs()))
        self.engine = self.llm.llm_engine
        # What is too long is dropped by name, not refused with an exception.
        self.any_length = dataclasses.replace(
            self.engine.renderer.default_cmpl_tok_params, max_total_tokens=None
        )
        self.room = self.engine.model_config.max_model_len
        # Enough in the queue that no sequence's end leaves a place empty.
        self.queued = 2 * self.engine.vllm_config.scheduler_config.max_num_seqs
        self.common = {
            "temperature": float(settings["temperature"]),
            "top_p": float(settings["top_p"]),
            "stop_token_ids": sorted(self.ends),
            "logprobs": 0,  # of the sampled token alone
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        self._count = 0

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        """For each request in turn, one continuation per seed.

        `logprob` and "dropped" are as with `TransformersSampler`.
        """
        self.llm.reset_prefix_cache()
        results: list[list[Sampled]] = [
            [Sampled((), "dropped", 0.0)] * len(request.seeds) for request in requests
        ]
        running: dict[str, tuple[int, int]] = {}
        left = [0] * len(requests)
        begun = 0
        try:
            with ThreadPoolExecutor(1, "render") as pool:
                rendered = self._rendered(pool, requests)
                for number in range(len(requests)):
                    while begun <= number or left[number]:
                        while begun < len(requests) and len(running) < self.queued:
                            names = self._begin(requests[begun], next(rendered))
                            running |= {name: (begun, j) for j, name in enumerate(names)}
                            left[begun] = len(names)
                            begun += 1
                        for name, sampled in self._step() if running else ():
                            which, j = running.pop(name)
                            results[which][j] = sampled
                            left[which] -= 1
                    yield results[number]
        finally:
            if running:
                self.engine.abort_request(list(running))

    def _rendered(self, pool: ThreadPoolExecutor, requests: Sequence[Request]) -> Iterator[Any]:
        """The requests' engine inputs in turn, made by the pool a bounded number ahead."""
        ahead: deque[Future[Any]] = deque()
        rest = iter(requests)
        try:
            for _ in requests:
                for request in rest:
                    ahead.append(pool.submit(self.render, request))
                    if len(ahead) == RENDERED_AHEAD:
                        break
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def render(self, request: Request) -> Any:
        """What the engine is given: prompt and prefix as ids, pictures as tensors."""
        images = pictures(request.images)
        text = self.processor.apply_chat_template(
            conversation(request.question, images, self.system),
            add_generation_prompt=True,
            tokenize=False,
        )
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        ids = self.tokenizer(text, add_special_tokens=special).input_ids
        prompt: dict[str, Any] = {"prompt_token_ids": [*ids, *request.prefix_ids]}
        if images:
            # One token stands for a picture here; the engine puts in as many as it has.
            prompt["multi_modal_data"] = {"image": images}
            prompt["multi_modal_uuids"] = {
                "image": [hashlib.sha256(data).hexdigest() for data in request.images]
            }
        # The other cache leaves out pictures that the engine has been given before; a request that
        # is rendered and then dropped would make it wait for one for ever.
        (made,) = self.engine.renderer.render_cmpl([prompt], self.any_length, skip_mm_cache=True)
        return made

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


def _lora_rank(policy: Path) -> int:
    """The smallest rank that vLLM has room for and the adapter fits into.

    Raises:
        SiError: if the adapter changes vision modules, which vLLM would ignore.
    """
    from safetensors import safe_open

    with safe_open(policy / "adapter_model.safetensors", "pt") as tensors:
        vision = [name for name in tensors.keys() if VISION_TENSOR.search(name)]  # noqa: SIM118
    if vision:
        raise SiError(
            "vLLM does not serve adapters of the vision tower",
            f"{policy.name} has {len(vision)} of its tensors, {vision[0]} for one",
            "Train the adapter on the language model only, or sample with transformers.",
        )
    rank = json.loads((policy / ADAPTER_CONFIG).read_text())["r"]
    return next(known for known in LORA_RANKS if known >= rank)
