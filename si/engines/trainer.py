"""Training with transformers' classes: a plain PyTorch loop, deterministic to the byte.

Full fine-tuning and LoRA adapters; AdamW with warmup and cosine decay. The loss is the mean over
all response tokens of a global batch, however the batch is divided into micro-batches.
"""

import math
import os
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from si.config.recipe import Train
from si.engines import packing
from si.engines.batches import Example, count_steps, make_batch, make_examples, steps, summed_loss
from si.engines.hf import Prompts, device, is_adapter, load_model
from si.engines.port import Trained, Trainer, TrainSettings
from si.engines.speed import Cost, Step, summary
from si.engines.vision import FrozenVision
from si.engines.writing import export
from si.errors import RecipeError
from si.machine import packages
from si.randomness import keyed_seed
from si.records import TrainingRow
from si.store.checkpoints import Checkpoints


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The learning rate of step 0 <= `step` < `steps`: linear warmup over a share `warmup` of the
    steps, then cosine decay to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def language_parameters(model: Any) -> list[torch.nn.Parameter]:
    """All parameters outside the vision tower and projector; a tied output head is listed once."""
    modules = (model.get_decoder(), model.get_output_embeddings())
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def language_linears(model: Any) -> str:
    """A regular expression for the full names of the language model's linear layers, for PEFT.

    The last part of a name is not enough: some vision towers have a `q_proj` too.
    """
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    linears = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(linears))})"


class TransformersTrainer(Trainer):
    """Trains in one process, on a GPU if there is one."""

    def train(
        self,
        rows: Sequence[TrainingRow],
        start: Path,
        base: Path,
        out: Path,
        settings: TrainSettings,
        seed: int,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        """Train as `Trainer.train` describes; the provenance is that of `speed.summary`.

        Raises:
            NothingToTrain: if every row is too long.
            SiError: if the written policy differs from the trained one.
        """
        train = settings.train
        make_deterministic(train.cpu_threads, seed)
        folder = base if is_adapter(start) else start
        prompts = Prompts.open(folder, settings.prompts)
        examples = make_examples(rows, prompts, train)
        model = open_policy(start, base, train)
        configure(without_adapter(model), prompts, train)
        done = fit(model, prompts, examples, settings, seed, checkpoints)
        export(model, folder, out, train)
        return trained(rows, examples, done, train, summary(done, train.dtype))


def trained(
    rows: Sequence[TrainingRow],
    examples: Sequence[Example],
    steps: Sequence[Step],
    train: Train,
    provenance: dict[str, Any],
) -> Trained:
    """What a trainer reports, from all rows, the examples used and the figures of every step."""
    return Trained(
        steps=len(steps),
        examples=len(examples),
        tokens=sum(len(example.row.token_ids) for example in examples),
        dropped=len(rows) - len(examples),
        losses=[round(step.loss, 4) for step in steps],
        learning_rates=[float(f"{step.rate:.4g}") for step in steps],
        grad_norms=[float(f"{step.norm:.4g}") for step in steps],
        adapter=train.lora is not None,
        provenance=provenance,
    )


def make_deterministic(threads: int, seed: int) -> None:
    """Use deterministic algorithms and a fixed number of threads, and seed LoRA's initialisation.
    On a GPU the backward pass of attention stays nondeterministic: its sums have no fixed order."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # Filling fresh memory would find bugs, but takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.manual_seed(keyed_seed(seed, "initialise"))


def open_policy(start: Path, base: Path, train: Train, where: torch.device | None = None) -> Any:
    """The model to train, with `requires_grad` on the weights that train.

    With `lora`, a new adapter on `start`, or the adapter in `start` trained further; never one on
    top of another. Weights that train are float32 whatever `dtype` is, because small updates
    vanish in bfloat16.

    Args:
        where: the device; by default the GPU if there is one.

    Raises:
        RecipeError: if `start` is an adapter and the recipe trains all weights.
    """
    lora = train.lora
    if is_adapter(start) and not lora:
        raise RecipeError(
            "The policy to start from is an adapter, but the recipe does not set train.lora",
            f"start: {start.name}",
            "Train the adapter further (train.lora), or start from policy 0 (train.init: base).",
        )
    model = load_model(base if is_adapter(start) else start, train.dtype)
    if lora:
        from peft import LoraConfig, PeftModel, get_peft_model

        if is_adapter(start):
            model = PeftModel.from_pretrained(model, start, is_trainable=True)
        else:
            config = LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=language_linears(model),
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(model, config)
    elif train.freeze_vision:
        model.requires_grad_(False)
        for parameter in language_parameters(model):
            parameter.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.to(where or device())


def configure(model: Any, prompts: Prompts, train: Train) -> None:
    """Set up sequence packing, gradient checkpointing and Liger kernels, as the recipe says."""
    if train.packing:
        packing.use_packed_attention(model, prompts.family)
    if train.gradient_checkpointing or train.deepspeed.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if train.liger:
        use_liger(model)


def use_liger(model: Any) -> None:
    """Replace norms and MLPs by Liger's Triton kernels. The loss over response tokens stays ours.

    Raises:
        RecipeError: if the GPU, the package, or kernels for this model type are missing.
    """
    kind = model.config.model_type
    if not torch.cuda.is_available():
        raise RecipeError(
            "train.liger requires a GPU", "its kernels are written in Triton", "Remove train.liger."
        )
    packages.check("train.liger", "liger")
    from liger_kernel.transformers import monkey_patch

    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise RecipeError(
            f"Liger has no kernels for models of type {kind}", "", "Remove train.liger."
        )
    monkey_patch._apply_liger_kernel_to_instance(
        model, cross_entropy=False, fused_linear_cross_entropy=False
    )


def frozen_vision(
    model: Any, prompts: Prompts, train: Train, dtype: torch.dtype
) -> FrozenVision | None:
    """The cache of image features, if the recipe asks for one."""
    if not train.cache_vision:
        return None
    return FrozenVision(model, dtype, prompts.family.is_vision)


def fit(
    model: Any,
    prompts: Prompts,
    examples: Sequence[Example],
    settings: TrainSettings,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> list[Step]:
    """Train in place; returns the figures of every step."""
    train = settings.train
    inner, dtype = without_adapter(model), getattr(torch, train.dtype)
    count = count_steps(examples, settings)
    optimizer = torch.optim.AdamW(parameter_groups(model, train.weight_decay), fused=True)
    # In the model's order: the last bits of the norm depend on it.
    parameters = [p for p in model.parameters() if p.requires_grad]
    cost = Cost.of(inner)
    vision = frozen_vision(inner, prompts, train, dtype)
    model.train()
    done = restore(checkpoints.resume, parameters, optimizer) if checkpoints else []
    make = partial(make_batch, inner, prompts, train)
    started = time.perf_counter()
    for chosen, ready in steps(examples, settings, seed, make, len(done)):
        tokens = sum(example.targets for example in chosen)
        losses = []
        for batch, _ in ready:
            loss = summed_loss(inner, batch, inner.device, dtype, vision) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(parameters, train.clip)
        rate = learning_rate(len(done), count, train.lr, train.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        # The only point at which the CPU waits for a GPU.
        total, size = sum(loss.item() for loss in losses), norm.item()
        done.append(Step(total, rate, size, *step_cost(started, chosen, cost)))
        if checkpoints and len(done) < count and checkpoints.due():
            save(checkpoints.begin(len(done)), parameters, optimizer, done)
            checkpoints.end(len(done))
            checkpoints.leave(len(done))
        started = time.perf_counter()
    return done


def step_cost(started: float, chosen: Sequence[Example], cost: Cost) -> tuple[float, int, float]:
    """Seconds since `started`, and tokens and FLOPs of a step over the examples `chosen`."""
    seconds = time.perf_counter() - started
    tokens = sum(example.length for example in chosen)
    return seconds, tokens, cost.flops(example.lengths for example in chosen)


STATE = "state.pt"


def save(
    folder: Path,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    done: Sequence[Step],
) -> None:
    """Write what `restore` needs: trainable weights, optimizer and generator states, figures so
    far. Data order and learning rate follow from the number of steps."""
    state = {
        "steps": [tuple(step) for step in done],
        "weights": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
        **generator_states(),
    }
    torch.save(state, folder / STATE)


def restore(
    folder: Path | None, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> list[Step]:
    """Load the state in `folder`, if there is one; returns the figures of the completed steps."""
    if folder is None:
        return []
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for parameter, saved in zip(parameters, state["weights"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    set_generator_states(state)
    return [Step(*step) for step in state["steps"]]


def generator_states() -> dict[str, Any]:
    """The states of torch's random generators, which dropout draws from."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"generator": torch.get_rng_state(), "gpu_generator": gpu}


def set_generator_states(state: dict[str, Any]) -> None:
    """Restore the states that `generator_states` returned."""
    torch.set_rng_state(state["generator"])
    if state["gpu_generator"] is not None:
        torch.cuda.set_rng_state(state["gpu_generator"])


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in the optimizer's groups; norms and biases have no weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def without_adapter(model: Any) -> Any:
    """The model inside a PEFT wrapper; an adapter's layers are part of it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model
