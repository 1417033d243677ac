"""Training with DeepSpeed: ZeRO over any number of processes, full fine-tuning and LoRA adapters.

Examples, their order, loss, schedule and export are those of `si.engines.trainer`. The batch of a
step is the recipe's, whatever the number of processes: each takes its share of the micro-batches,
gradients are summed, and the loss is the mean over the tokens of the whole batch.

The processes are those that torchrun has started (WORLD_SIZE is set), or those that this one
starts (`si.engines.group`). A single process needs neither.
"""

import os
import pickle
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported

import deepspeed
from deepspeed.runtime.utils import clip_grad_norm_
from deepspeed.utils import safe_set_full_fp32_param

from si.config.recipe import Train
from si.engines.batches import (
    Example,
    Query,
    count_steps,
    make_batch,
    make_examples,
    measure,
    steps,
    summed_loss,
)
from si.engines.gathering import fill, gather
from si.engines.group import launch, machines, processes
from si.engines.hf import Prompts, is_adapter
from si.engines.port import Trained, Trainer, TrainSettings
from si.engines.speed import Cost, Step, memory, summary
from si.engines.trainer import (
    configure,
    frozen_vision,
    generator_states,
    learning_rate,
    make_deterministic,
    open_policy,
    parameter_groups,
    set_generator_states,
    step_cost,
    trained,
    without_adapter,
)
from si.engines.writing import export
from si.errors import RecipeError, SiError
from si.randomness import keyed_seed
from si.records import TrainingRow
from si.store.checkpoints import Checkpoints

# ZeRO-3 does not partition weights smaller than this, or than a hundredth of a tiny model.
PERSISTENT = 100_000
TAG = "state"  # DeepSpeed's folder within a checkpoint
BUCKET = 50_000_000  # gradients per message
WRITING = timedelta(hours=6)  # how long processes wait while the first one writes the policy


class DeepSpeedTrainer(Trainer):
    """Trains with DeepSpeed.

    In a group of several processes the first one writes the policy, the others nothing.
    """

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
        """Train as `TransformersTrainer.train` does, with `settings.train.deepspeed`."""
        arguments = (rows, start, base, out, settings, seed, checkpoints)
        if "WORLD_SIZE" not in os.environ and (processes() > 1 or machines() > 1):
            return launch(__name__, processes(), out, arguments)
        join_group()
        return train_in_group(*arguments)


def join_group() -> None:
    """Join torchrun's group, or create one of this process alone."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    # Its all-reduce through shared memory would have to be compiled first.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        backend = "nccl" if gpu else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:  # opens no port
            os.environ.setdefault("LOCAL_RANK", "0")
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False)


# --- one process of a group ----------------------------------------------------------------


def train_in_group(
    rows: Sequence[TrainingRow],
    start: Path,
    base: Path,
    out: Path,
    settings: TrainSettings,
    seed: int,
    checkpoints: Checkpoints | None,
) -> Trained:
    """This process's part of the training; the first process writes the policy."""
    train = settings.train
    make_deterministic(train.cpu_threads, seed)
    folder = base if is_adapter(start) else start
    prompts = Prompts.open(folder, settings.prompts)
    examples = make_examples(rows, prompts, train, measure_together)
    _refuse_deadlock(examples, train)
    model = open_policy(start, base, train)
    configure(without_adapter(model), prompts, train)
    checkpoints = shared(checkpoints)
    if dist.get_rank():
        torch.manual_seed(keyed_seed(seed, "dropout", dist.get_rank()))
    cost = Cost.of(without_adapter(model))  # while this process has all weights
    engine = make_engine(without_adapter(model), train)
    done = fit(engine, model, prompts, examples, settings, seed, cost, checkpoints)
    most = torch.tensor([memory()], device=engine.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    state = gather(without_adapter(model), train)
    if dist.get_rank() == 0:
        # In CPU memory: the GPU may still hold what was trained.
        del engine, model
        policy = open_policy(start, base, train, torch.device("cpu"))
        fill(without_adapter(policy), state)
        export(policy, folder, out, train)
    wait_until_written()
    speed = summary(done, train.dtype, dist.get_world_size(), int(most))
    return trained(rows, examples, done, train, speed)


def wait_until_written() -> None:
    """Wait until the first process has written the policy.

    This uses the group's store: on GPUs a collective gives up after ten minutes, and writing a
    large policy may take longer.
    """
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 0:
        store.set("written", "yes")
    else:
        store.wait(["written"], WRITING)


def measure_together(prompts: Prompts, queries: Sequence[Query]) -> list[tuple[int, int]]:
    """As `measure`, with the queries divided among the processes."""
    world, rank = dist.get_world_size(), dist.get_rank()
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, measure(prompts, queries[rank::world]))
    sizes = [(0, 0)] * len(queries)
    for other, part in enumerate(parts):
        sizes[other::world] = part
    return sizes


def _refuse_deadlock(examples: Sequence[Example], train: Train) -> None:
    """Refuse data on which processes would wait for each other forever. Under ZeRO-3 all of them
    must run the same modules, under ZeRO-2 the same trainable modules.

    Raises:
        RecipeError: if only some examples have images and the vision tower needs all processes.
    """
    zero = train.deepspeed.zero
    kinds = {bool(example.row.images) for example in examples}
    vision_trains = not (train.lora or train.freeze_vision)
    waits = zero == 3 or (zero and vision_trains)
    if waits and dist.get_world_size() > 1 and len(kinds) > 1:
        ways = ["Use data in which all queries have images, or none."]
        if vision_trains:
            ways.insert(0, "Freeze the vision tower: --set train.freeze_vision=true")
        if zero == 3:
            ways.insert(0, "Use --set train.deepspeed.zero=2")
        raise RecipeError(
            f"ZeRO-{zero} over several processes cannot train on queries with and without images",
            "a process without images skips the vision tower in which the others wait for it",
            tuple(ways),
        )


def make_engine(model: Any, train: Train) -> Any:
    """DeepSpeed's engine around the model, with float32 copies of the trainable weights."""
    exact = {}
    if train.lora and train.dtype != "float32":
        # The engine casts weights before it copies them. Keep what bfloat16 cannot represent.
        exact = {n: p.data.cpu() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameter_groups(model, train.weight_decay), fused=True)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=configuration(model, train)
    )
    if not train.deepspeed.zero:
        # DeepSpeed clips these gradients itself without recording their norm.
        def clip() -> None:
            norm = clip_grad_norm_(engine.module.parameters(), train.clip, mpu=engine.mpu)
            engine._global_grad_norm = norm

        engine.clip_fp32_gradients = clip
    for name, parameter in model.named_parameters():
        if name in exact:
            safe_set_full_fp32_param(parameter, exact[name].to(engine.device))
    return engine


def configuration(model: Any, train: Train) -> dict[str, Any]:
    """The recipe as a DeepSpeed configuration."""
    offload = train.deepspeed.offload
    weights = sum(p.numel() for p in model.parameters())
    zero: dict[str, Any] = {
        "stage": train.deepspeed.zero,
        "overlap_comm": False,
        "reduce_bucket_size": min(BUCKET, weights),
        "stage3_prefetch_bucket_size": min(BUCKET, weights),
        "stage3_param_persistence_threshold": min(PERSISTENT, weights // 100),
    }
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": 1,
        # We decide when a step ends: the last one may have fewer micro-batches.
        "managed_gradient_accumulation": False,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": train.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        # torch's AdamW on the CPU too: DeepSpeed's would have to be compiled first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
        "checkpoint": {"use_node_local_storage": True},
    }


def fit(
    engine: Any,
    model: Any,
    prompts: Prompts,
    examples: Sequence[Example],
    settings: TrainSettings,
    seed: int,
    cost: Cost,
    checkpoints: Checkpoints | None = None,
) -> list[Step]:
    """Train in place; returns the figures of every step."""
    world, rank = dist.get_world_size(), dist.get_rank()
    count = count_steps(examples, settings)
    train = settings.train
    inner = without_adapter(model)
    vision = frozen_vision(inner, prompts, train, getattr(torch, train.dtype))
    model.train()
    done = restore(engine, checkpoints.resume) if checkpoints else []
    make = partial(make_batch, inner, prompts, train)
    started = time.perf_counter()
    for chosen, ready in steps(examples, settings, seed, make, len(done), rank, world):
        tokens = sum(example.targets for example in chosen)
        total = torch.zeros((), device=engine.device)
        for batch, weight in ready:
            # The engine casts inputs itself. It averages over processes; we want the sum.
            loss = summed_loss(engine, batch, engine.device, torch.float32, vision)
            loss = loss * (weight / tokens)
            engine.backward(loss * world)
            total += loss.detach()
        rate = learning_rate(len(done), count, train.lr, train.warmup)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        engine.step()
        dist.all_reduce(total)
        mean, norm = total.item(), float(engine.get_global_grad_norm() or 0)
        done.append(Step(mean, rate, norm, *step_cost(started, chosen, cost)))
        if checkpoints and len(done) < count and any_process(checkpoints.due()):
            save(engine, checkpoints, done)
            if any_process(checkpoints.asked_to_stop):
                (checkpoints.folder / "stop").touch()  # on every machine
                checkpoints.leave(len(done))
        started = time.perf_counter()
    return done


# --- checkpoints ---------------------------------------------------------------------------


def shared(checkpoints: Checkpoints | None) -> Checkpoints | None:
    """The checkpoints of this machine's first process: all processes of a machine save to one
    folder, even if torchrun has started each of them on its own."""
    if checkpoints is None:
        return None
    mine = (os.environ.get("GROUP_RANK", "0"), checkpoints.folder)
    folders: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(folders, mine)
    first = next(folder for machine, folder in folders if machine == mine[0])
    return Checkpoints(first, checkpoints.seconds)


def any_process(yes: bool) -> bool:
    """Whether `yes` holds in any process, so that all of them do the same."""
    flag = torch.tensor([yes], dtype=torch.float32)
    flag = flag.to("cuda" if torch.cuda.is_available() else "cpu")
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def save(engine: Any, checkpoints: Checkpoints, done: Sequence[Step]) -> None:
    """Write what `restore` needs, each process its own part, into one folder per machine."""
    folder = checkpoints.begin(len(done))
    engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    state = {"steps": [tuple(step) for step in done], "world": dist.get_world_size()}
    torch.save(state | generator_states(), folder / f"process-{dist.get_rank()}.pt")
    dist.barrier()
    if int(os.environ["LOCAL_RANK"]) == 0:
        checkpoints.end(len(done))


def restore(engine: Any, folder: Path | None) -> list[Step]:
    """Load the state in `folder`; returns the figures of the completed steps.

    If a process has no state, or the number of processes was different, all start over.
    """
    path = folder / f"process-{dist.get_rank()}.pt" if folder else None
    state = torch.load(path, weights_only=True) if path and path.exists() else {}
    known: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(known, (len(state.get("steps", ())), state.get("world")))
    if set(known) != {(len(state.get("steps", ())), dist.get_world_size())} or not state:
        if folder and dist.get_rank() == 0:
            sys.stderr.write(
                "Starting over: the checkpoint is from another number of processes than "
                f"{dist.get_world_size()}.\n"
            )
        return []
    engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    set_generator_states(state)
    return [Step(*step) for step in state["steps"]]


# --- the main of each process that `launch` starts -----------------------------------------


def main(task: Path, answer: Path) -> None:
    """Join the group, train, and write the answer, or an error, for `launch`."""
    arguments = pickle.loads(task.read_bytes())  # noqa: S301
    join_group()
    try:
        done = train_in_group(*arguments)
    except SiError as error:
        answer.write_bytes(pickle.dumps(error))
        raise
    if dist.get_rank() == 0:
        answer.write_bytes(pickle.dumps(done))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
