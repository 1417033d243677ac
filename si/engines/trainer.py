"""Training on transformers' classes: a plain PyTorch loop, equal inputs to equal bytes.

Whole models and LoRA adapters; AdamW, warm-up and cosine; the loss is the mean over all
response tokens of a global batch, however the batch is cut into micro-batches.
"""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from si.config.recipe import Train
from si.engines import packing
from si.engines.batches import Example, count_steps, make_batch, make_examples, steps, summed_loss
from si.engines.hf import ADAPTER_CONFIG, Prompts, device, is_adapter, load_model
from si.engines.port import Trained, Trainer, TrainSettings
from si.engines.speed import Cost, Step, summary
from si.engines.vision import FrozenVision
from si.errors import RecipeError, SiError
from si.machine import packages
from si.randomness import keyed_seed
from si.records import TrainingRow
from si.store.checkpoints import Checkpoints

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
# A whole model's own; beside an adapter they would make it look like one.
MODEL_CONFIGS = ("config.json", "generation_config.json")


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The rate of step 0 <= `step` < `steps`: up linearly for a share `warmup` of the steps,
    then down to 0 by a cosine."""
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def language_parameters(model: Any) -> list[torch.nn.Parameter]:
    """Everything but vision tower and projector. A tied output head is in it once."""
    modules = (model.get_decoder(), model.get_output_embeddings())
    return list({id(p): p for module in modules for p in module.parameters()}.values())


def language_linears(model: Any) -> str:
    """A pattern for the full names of the language model's linear layers, as PEFT matches it.

    Names alone would not do: some vision towers call theirs `q_proj` too.
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
        equip(without_adapter(model), prompts, train)
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
    """Equal inputs, equal bytes: algorithms, number of threads, and what initialises LoRA. On a GPU
    attention's backward stays as it is, whose sums have no fixed order."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # Filling fresh memory finds bugs, and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    torch.manual_seed(keyed_seed(seed, "initialise"))


def open_policy(start: Path, base: Path, train: Train, where: torch.device | None = None) -> Any:
    """The model to train, on `where` (by default the GPU if there is one), with `requires_grad`
    where it may change.

    With `lora`, a fresh adapter on `start`, or `start`'s own adapter carried on: never
    one on top of another. Weights that train are held in float32 whatever `dtype` is,
    since small steps vanish in bfloat16.
    """
    lora = train.lora
    if is_adapter(start) and not lora:
        raise RecipeError(
            "The policy to start from is an adapter, but the recipe has no train.lora",
            f"start: {start.name}",
            "Go on with the adapter (train.lora), or begin from policy 0 (train.init: base).",
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


def equip(model: Any, prompts: Prompts, train: Train) -> None:
    """How the recipe wants it computed: rows packed, activations computed twice, other kernels."""
    if train.packing:
        packing.use(model, prompts.family)
    if train.gradient_checkpointing or train.deepspeed.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if train.liger:
        use_liger(model)


def use_liger(model: Any) -> None:
    """Replace norms and MLPs by Liger's Triton kernels; the loss stays ours, over response tokens.

    Raises:
        RecipeError: without a GPU, the package, or kernels for such models.
    """
    kind = model.config.model_type
    if not torch.cuda.is_available():
        raise RecipeError("train.liger needs a GPU", "its kernels are Triton's", "Leave it out.")
    packages.check("train.liger", "liger")
    from liger_kernel.transformers import monkey_patch

    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise RecipeError(f"Liger has no kernels for models of type {kind}", "", "Leave it out.")
    monkey_patch._apply_liger_kernel_to_instance(
        model, cross_entropy=False, fused_linear_cross_entropy=False
    )


def frozen_vision(
    model: Any, prompts: Prompts, train: Train, dtype: torch.dtype
) -> FrozenVision | None:
    """What keeps pictures' features, if the recipe wants it."""
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
    """Train in place; the figures of every step."""
    train = settings.train
    whole, dtype = without_adapter(model), getattr(torch, train.dtype)
    count = count_steps(examples, settings)
    optimizer = torch.optim.AdamW(parameter_groups(model, train.weight_decay), fused=True)
    # In the model's order: the norm's last bits depend on it.
    parameters = [p for p in model.parameters() if p.requires_grad]
    cost = Cost.of(whole)
    vision = frozen_vision(whole, prompts, train, dtype)
    model.train()
    done = restore(checkpoints.resume, parameters, optimizer) if checkpoints else []
    make = partial(make_batch, whole, prompts, train)
    begun = time.perf_counter()
    for chosen, ready in steps(examples, settings, seed, make, len(done)):
        tokens = sum(example.targets for example in chosen)
        losses = []
        for batch, _ in ready:
            loss = summed_loss(whole, batch, whole.device, dtype, vision) / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(parameters, train.clip)
        rate = learning_rate(len(done), count, train.lr, train.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        # Only here the CPU waits for a GPU.
        total, size = sum(loss.item() for loss in losses), norm.item()
        done.append(Step(total, rate, size, *spent(begun, chosen, cost)))
        if checkpoints and len(done) < count and checkpoints.due():
            save(checkpoints.begin(len(done)), parameters, optimizer, done)
            checkpoints.end(len(done))
            checkpoints.leave(len(done))
        begun = time.perf_counter()
    return done


def spent(begun: float, chosen: Sequence[Example], cost: Cost) -> tuple[float, int, float]:
    """Seconds since `begun`, tokens and FLOPs of a step over the examples `chosen`."""
    seconds = time.perf_counter() - begun
    tokens = sum(example.length for example in chosen)
    return seconds, tokens, cost.flops(example.lengths for example in chosen)


STATE = "state.pt"


def save(
    folder: Path,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    done: Sequence[Step],
) -> None:
    """Write what `restore` needs: weights that train, optimizer, generators, figures so far. The
    order of the data and the schedule follow from the number of steps."""
    state = {
        "steps": [tuple(step) for step in done],
        "weights": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
        **generators(),
    }
    torch.save(state, folder / STATE)


def restore(
    folder: Path | None, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> list[Step]:
    """Put the state in `folder` in place; the figures of the steps that are done."""
    if folder is None:
        return []
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for parameter, saved in zip(parameters, state["weights"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    set_generators(state)
    return [Step(*step) for step in state["steps"]]


def generators() -> dict[str, Any]:
    """The states of torch's generators, which dropout draws from."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"generator": torch.get_rng_state(), "gpu_generator": gpu}


def set_generators(state: dict[str, Any]) -> None:
    """As `generators` found them."""
    torch.set_rng_state(state["generator"])
    if state["gpu_generator"] is not None:
        torch.cuda.set_rng_state(state["gpu_generator"])


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """What trains, in the optimizer's groups: norms and biases are not pulled to 0."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def without_adapter(model: Any) -> Any:
    """The model itself; an adapter's layers are inside it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


# --- writing -------------------------------------------------------------------------------


def export(model: Any, folder: Path, out: Path, train: Train) -> None:
    """Write the trained policy to `out` and load it again; `folder` is that of the whole model
    which was loaded.

    Raises:
        SiError: if what was written is not what was trained.
    """
    if train.lora is None:
        model.to(getattr(torch, train.dtype))
    write_policy(model, folder, out)
    check_policy(model, folder, out, train.dtype)


def write_policy(model: Any, start: Path, out: Path) -> None:
    """Write the model or its adapter to `out`, with the tokenizer's and processor's files.

    `start` is the HF folder of the whole model that was loaded; its other files are
    copied as they are.
    """
    model.save_pretrained(out)
    left_out: tuple[str, ...] = ()
    if is_adapter(out):
        left_out = MODEL_CONFIGS
        (out / "README.md").unlink(missing_ok=True)
        config = json.loads((out / ADAPTER_CONFIG).read_text())
        # A path on this machine; which base it is, the artefact's inputs say.
        config["base_model_name_or_path"] = None
        (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in sorted(start.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHTS) and path.name not in left_out:
            target = out / path.name
            if not target.exists():
                shutil.copyfile(path, target)


def check_policy(model: Any, base: Path, out: Path, dtype: str) -> None:
    """Load what was written and hold it against what was trained: names, shapes, values. In its
    files a whole model's tensors bear the names that they bear in those of `base`.

    Raises:
        SiError: naming the first tensors that differ.
    """
    if not is_adapter(out):
        check_names(model, base, out)
    again = load_model(base if is_adapter(out) else out, dtype, nothing_else=not is_adapter(out))
    if is_adapter(out):
        from peft import PeftModel

        again = PeftModel.from_pretrained(again, out)
    trained, written = model.state_dict(), again.state_dict()
    wrong = [f"{name}: not trained, but written" for name in sorted(written.keys() - trained)]
    for name, tensor in trained.items():
        if name not in written:
            wrong.append(f"{name}: missing")
        elif written[name].shape != tensor.shape:
            wrong.append(f"{name}: {list(written[name].shape)}, trained {list(tensor.shape)}")
        elif not torch.equal(written[name], tensor.cpu().to(written[name].dtype)):
            wrong.append(f"{name}: other values")
    if wrong:
        raise SiError(
            f"The policy was not written as it was trained: {len(wrong)} of {len(trained)} "
            "tensors differ",
            "\n".join(wrong[:5]),
            "Nothing was committed. Is this version of transformers (or peft) supported?",
        )


def check_names(model: Any, base: Path, out: Path) -> None:
    """Refuse tensors under names that the base model's files do not have. transformers would find
    them again; other engines may leave what they do not find at random (`model.visual.*`).

    Raises:
        SiError: naming the first ones.
    """
    strange = tensor_names(out) - tensor_names(base)
    # A head that is the embedding itself is written or not, as it happens.
    tied = tuple(getattr(model, "_tied_weights_keys", None) or ())
    if tied and model.config.get_text_config().tie_word_embeddings:
        strange = {name for name in strange if not name.endswith(tied)}
    if strange:
        raise SiError(
            f"The policy was written under other names: {len(strange)} of its tensors are not in "
            f"{base.name}",
            "\n".join(sorted(strange)[:5]),
            "Nothing was committed. Is this version of transformers supported?",
        )


def tensor_names(folder: Path) -> set[str]:
    """Names of all tensors in a folder's safetensors files."""
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            names |= set(tensors.keys())
    return names
