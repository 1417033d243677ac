"""Training with DeepSpeed: as many processes as there are, ZeRO, whole models and LoRA adapters.

Examples, their order, loss, schedule and export are those of `si.engines.trainer`. A step's
batch is the recipe's whatever the number of processes is: each takes its share of the
micro-batches, gradients are summed, and the loss is the mean over the whole batch's tokens.

Processes are those that torchrun has started (WORLD_SIZE is set), or those that this one
starts on its own machine: one per GPU, or SICTL_TRAIN_PROCESSES. One process needs neither.
Over several machines each starts its own, and they meet where SICTL_TRAIN_MASTER says.
"""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when it is imported

import deepspeed
from deepspeed.runtime.utils import clip_grad_norm_
from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

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
from si.engines.hf import Prompts, is_adapter
from si.engines.port import Trained, Trainer, TrainSettings
from si.engines.speed import Cost, Step, memory, summary
from si.engines.trainer import (
    equip,
    export,
    frozen_vision,
    generators,
    learning_rate,
    make_deterministic,
    open_policy,
    parameter_groups,
    set_generators,
    spent,
    trained,
    without_adapter,
)
from si.errors import RecipeError, SiError
from si.randomness import keyed_seed
from si.records import TrainingRow
from si.store.checkpoints import Checkpoints

PROCESSES = "SICTL_TRAIN_PROCESSES"
NODES, NODE, MASTER = "SICTL_TRAIN_NODES", "SICTL_TRAIN_NODE", "SICTL_TRAIN_MASTER"
# Weights smaller than this stay whole under ZeRO-3; of a tiny model, a hundredth of it.
WHOLE = 100_000
TAG = "state"  # DeepSpeed's folder within a checkpoint
BUCKET = 50_000_000  # gradients that are sent at once
PATIENCE = timedelta(hours=6)  # of those that wait while the first process writes the policy


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
        if "WORLD_SIZE" not in os.environ and (processes() > 1 or number(NODES, 1) > 1):
            return launch(processes(), *arguments)
        join_group()
        return train_in_group(*arguments)


def processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train on this machine where nobody has started them."""
    return number(PROCESSES, max(1, torch.cuda.device_count()), environment)


def number(
    name: str, default: int, environment: Mapping[str, str] = os.environ, least: int = 1
) -> int:
    """A variable of the place that is a whole number.

    Raises:
        RecipeError: if it is none, or too small.
    """
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise RecipeError(f"{name}={text} is no number of {least} or more")
    return int(text)


def meeting(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What torchrun is told of where the processes of one training find each other.

    Raises:
        RecipeError: if there are several machines, and which this is or where they meet is not
            said.
    """
    nodes = number(NODES, 1, environment)
    if nodes == 1:
        return ["--standalone"]
    host, _, port = environment.get(MASTER, "").rpartition(":")
    node = number(NODE, nodes, environment, least=0)
    if node >= nodes or not host or not port.isdecimal():
        raise RecipeError(
            f"{NODES}={nodes} machines train together, and how is not said",
            f"{NODE}={environment.get(NODE, '')}, {MASTER}={environment.get(MASTER, '')}",
            f"Give {NODE}, from 0 to {nodes - 1}, and {MASTER}=HOST:PORT, of machine 0.",
        )
    words = ["--nnodes", str(nodes), "--node-rank", str(node)]
    return [*words, "--master-addr", host, "--master-port", port]


def join_group() -> None:
    """Join torchrun's group, or make one of this process alone."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    # Its all-reduce through shared memory would have to be compiled first.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        backend = "nccl" if gpu else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:  # no port is opened
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
    """This process's part of the training; the first process exports."""
    train = settings.train
    make_deterministic(train.cpu_threads, seed)
    folder = base if is_adapter(start) else start
    prompts = Prompts.open(folder, settings.prompts)
    examples = make_examples(rows, prompts, train, measure_together)
    _fit_for_all(examples, train)
    model = open_policy(start, base, train)
    equip(without_adapter(model), prompts, train)
    checkpoints = shared(checkpoints)
    if dist.get_rank():
        torch.manual_seed(keyed_seed(seed, "dropout", dist.get_rank()))
    cost = Cost.of(without_adapter(model))  # as long as the weights are whole
    engine = make_engine(without_adapter(model), train)
    done = fit(engine, model, prompts, examples, settings, seed, cost, checkpoints)
    most = torch.tensor([memory()], device=engine.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    state = gather(without_adapter(model), train)
    if dist.get_rank() == 0:
        # In the machine's memory: the GPU may still hold what was trained.
        del engine, model
        policy = open_policy(start, base, train, torch.device("cpu"))
        fill(without_adapter(policy), state)
        export(policy, folder, out, train)
    wait_until_written()
    speed = summary(done, train.dtype, dist.get_world_size(), int(most))
    return trained(rows, examples, done, train, speed)


def wait_until_written() -> None:
    """Wait for the first process, which has written the policy when it comes here. By the group's
    store: on GPUs a collective gives up after ten minutes, and a large policy may take longer."""
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 0:
        store.set("written", "yes")
    else:
        store.wait(["written"], PATIENCE)


def measure_together(prompts: Prompts, queries: Sequence[Query]) -> list[tuple[int, int]]:
    """As `measure`, each process its share."""
    world, rank = dist.get_world_size(), dist.get_rank()
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, measure(prompts, queries[rank::world]))
    sizes = [(0, 0)] * len(queries)
    for other, part in enumerate(parts):
        sizes[other::world] = part
    return sizes


def _fit_for_all(examples: Sequence[Example], train: Train) -> None:
    """Refuse what would make processes wait for each other for ever: all of them have to go through
    the same modules under ZeRO-3, and through the same that train under ZeRO-2."""
    zero = train.deepspeed.zero
    pictures = {bool(example.row.images) for example in examples}
    vision_trains = not (train.lora or train.freeze_vision)
    waits = zero == 3 or (zero and vision_trains)
    if waits and dist.get_world_size() > 1 and len(pictures) > 1:
        ways = ["Use data of one kind."]
        if vision_trains:
            ways.insert(0, "Freeze the vision tower: --set train.freeze_vision=true")
        if zero == 3:
            ways.insert(0, "Use --set train.deepspeed.zero=2")
        raise RecipeError(
            f"ZeRO-{zero} over several processes cannot train on queries with and without pictures",
            "a process without pictures would skip the vision tower that the others wait in",
            tuple(ways),
        )


def make_engine(model: Any, train: Train) -> Any:
    """The model in DeepSpeed's hands, its trainable weights in float32 beside it."""
    exact = {}
    if train.lora and train.dtype != "float32":
        # The engine casts the weights before it copies them; what bfloat16 cannot hold is kept.
        exact = {n: p.data.cpu() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameter_groups(model, train.weight_decay), fused=True)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=configuration(model, train)
    )
    if not train.deepspeed.zero:
        # DeepSpeed clips these gradients itself and forgets how large they were.
        def clip() -> None:
            norm = clip_grad_norm_(engine.module.parameters(), train.clip, mpu=engine.mpu)
            engine._global_grad_norm = norm

        engine.clip_fp32_gradients = clip
    for name, parameter in model.named_parameters():
        if name in exact:
            safe_set_full_fp32_param(parameter, exact[name].to(engine.device))
    return engine


def configuration(model: Any, train: Train) -> dict[str, Any]:
    """The recipe in DeepSpeed's words."""
    offload = train.deepspeed.offload
    weights = sum(p.numel() for p in model.parameters())
    zero: dict[str, Any] = {
        "stage": train.deepspeed.zero,
        "overlap_comm": False,
        "reduce_bucket_size": min(BUCKET, weights),
        "stage3_prefetch_bucket_size": min(BUCKET, weights),
        "stage3_param_persistence_threshold": min(WHOLE, weights // 100),
    }
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": 1,
        # A step is over when we say so: the last one may have fewer micro-batches.
        "managed_gradient_accumulation": False,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": train.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        # torch's AdamW, on the CPU too: DeepSpeed's own would have to be compiled first.
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
    """Train in place; the figures of every step."""
    world, rank = dist.get_world_size(), dist.get_rank()
    count = count_steps(examples, settings)
    train = settings.train
    dtype = getattr(torch, train.dtype)
    whole = without_adapter(model)
    vision = frozen_vision(whole, prompts, train, dtype)
    model.train()
    done = restore(engine, checkpoints.resume) if checkpoints else []
    make = partial(make_batch, whole, prompts, train)
    begun = time.perf_counter()
    for chosen, ready in steps(examples, settings, seed, make, len(done), rank, world):
        tokens = sum(example.targets for example in chosen)
        total = torch.zeros((), device=engine.device)
        for batch, weight in ready:
            # The engine casts inputs itself, and averages over processes where we want the sum.
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
        done.append(Step(mean, rate, norm, *spent(begun, chosen, cost)))
        if checkpoints and len(done) < count and anybody(checkpoints.due()):
            save(engine, checkpoints, done)
            if anybody(checkpoints.asked_to_stop):
                (checkpoints.folder / "stop").touch()  # on every machine
                checkpoints.leave(len(done))
        begun = time.perf_counter()
    return done


def shared(checkpoints: Checkpoints | None) -> Checkpoints | None:
    """Those of this machine's first process: all of its processes save to one folder, also where
    torchrun has started each of them by itself."""
    if checkpoints is None:
        return None
    mine = (os.environ.get("GROUP_RANK", "0"), checkpoints.folder)
    folders: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(folders, mine)
    first = next(folder for machine, folder in folders if machine == mine[0])
    return Checkpoints(first, checkpoints.seconds)


def anybody(yes: bool) -> bool:
    """Whether any process says yes: all of them have to do the same."""
    said = torch.tensor([yes], dtype=torch.float32)
    said = said.to("cuda" if torch.cuda.is_available() else "cpu")
    dist.all_reduce(said, dist.ReduceOp.MAX)
    return bool(said.item())


def save(engine: Any, checkpoints: Checkpoints, done: Sequence[Step]) -> None:
    """Write what `restore` needs, every process its own part, into one folder a machine."""
    folder = checkpoints.begin(len(done))
    engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    state = {"steps": [tuple(step) for step in done], "world": dist.get_world_size()}
    torch.save(state | generators(), folder / f"process-{dist.get_rank()}.pt")
    dist.barrier()
    if int(os.environ["LOCAL_RANK"]) == 0:
        checkpoints.end(len(done))


def restore(engine: Any, folder: Path | None) -> list[Step]:
    """Put the state in `folder` in place; the figures of the steps that are done.

    Where a process has no state, or one of as many processes as there were then, all begin anew.
    """
    path = folder / f"process-{dist.get_rank()}.pt" if folder else None
    state = torch.load(path, weights_only=True) if path and path.exists() else {}
    known: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(known, (len(state.get("steps", ())), state.get("world")))
    if set(known) != {(len(state.get("steps", ())), dist.get_world_size())} or not state:
        if folder and dist.get_rank() == 0:
            sys.stderr.write(
                f"A checkpoint of other processes than these {dist.get_world_size()} cannot be "
                "used: the training begins anew.\n"
            )
        return []
    engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    set_generators(state)
    return [Step(*step) for step in state["steps"]]


# --- the weights, whole again --------------------------------------------------------------


def gather(model: Any, train: Train) -> dict[str, Tensor]:
    """All weights by name, on the CPU; empty but in the first process.

    Those that trained come from the optimizer's float32, in the format that they are
    written in.

    Raises:
        SiError: if a weight's norm is not that of its parts in all processes.
    """
    kept = torch.float32 if train.lora else getattr(torch, train.dtype)
    names = [name for name, _ in model.named_parameters()]
    parts = [_own_square(p) for p in model.parameters()]
    squares = torch.stack(parts)
    if train.deepspeed.zero == 3:
        dist.all_reduce(squares)
    state, wholes = {}, []
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            whole = parameter.data.detach().clone()
        wholes.append(whole.double().pow(2).sum())
        if parameter.requires_grad:
            exact = safe_get_full_fp32_param(parameter)
            whole = whole if exact is None else exact.detach().to(kept)
        if dist.get_rank() == 0:
            state[name] = whole.cpu()
    found = torch.stack(wholes)
    wrong = [
        f"{name}: norm {float(b.sqrt()):.6g}, its parts' {float(a.sqrt()):.6g}"
        for name, a, b in zip(names, squares.cpu(), found.cpu(), strict=True)
        if not torch.isclose(a, b, rtol=1e-9, atol=0) or not b.isfinite()
    ]
    if wrong:
        raise SiError(
            f"{len(wrong)} of {len(names)} weights were not gathered as they were trained",
            "\n".join(wrong[:5]),
            "Nothing was committed. Is this version of DeepSpeed supported?",
        )
    return state


def _own_square(parameter: Any) -> Tensor:
    """The sum of squares of the part of a weight that this process holds."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter.data.double().pow(2).sum()  # type: ignore[no-any-return]
    part = parameter.ds_tensor.data.flatten()
    # The last part is filled up with anything.
    own = min(part.numel(), max(0, parameter.ds_numel - dist.get_rank() * part.numel()))
    return part[:own].to(parameter.device).double().pow(2).sum()  # type: ignore[no-any-return]


@torch.no_grad()
def fill(model: Any, state: dict[str, Tensor]) -> None:
    """Put the weights into a model like the one that was trained."""
    own = dict(model.named_parameters())
    strange = own.keys() ^ state.keys()
    if strange:
        raise SiError(
            f"{len(strange)} weights of the trained model have other names",
            ", ".join(sorted(strange)[:5]),
        )
    for name, tensor in state.items():
        own[name].copy_(tensor)


# --- several processes --------------------------------------------------------------------


def launch(count: int, *arguments: Any) -> Trained:
    """Train in `count` processes of this machine, and those of others, started by torchrun.

    Returns:
        The first process's facts; nothing where that is another machine's.

    Raises:
        SiError: what one of them raised, or that they ended without a word.
    """
    out: Path = arguments[3]
    with TemporaryDirectory(prefix="launch-", dir=out.parent) as folder:
        task, told = Path(folder) / "task", Path(folder) / "told"
        task.write_bytes(pickle.dumps(arguments))
        words = [sys.executable, "-m", "torch.distributed.run", *meeting()]
        words += ["--nproc-per-node", str(count), "-m", __name__, str(task), str(told)]
        # What they print goes to the log: standard output is for events.
        # Threads that spin while they wait would keep the cores from the other processes.
        env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        done = subprocess.run(words, stdout=2, env=env, check=False)  # noqa: S603
        answer: Any = pickle.loads(told.read_bytes()) if told.exists() else None  # noqa: S301
    if isinstance(answer, SiError):
        raise answer
    if answer is None and not done.returncode and number(NODE, 0, least=0):
        return Trained(steps=0)
    if done.returncode or answer is None:
        raise SiError(
            f"One of {count} training processes ended with {done.returncode}",
            "what they said is in this stage's log",
        )
    assert isinstance(answer, Trained)
    return answer


def member(task: Path, told: Path, work: Callable[..., Trained] = train_in_group) -> None:
    """The main of each process that `launch` starts."""
    arguments = pickle.loads(task.read_bytes())  # noqa: S301
    join_group()
    answer: Any
    try:
        answer = work(*arguments)
    except SiError as error:
        told.write_bytes(pickle.dumps(error))
        raise
    if dist.get_rank() == 0:
        told.write_bytes(pickle.dumps(answer))
    dist.destroy_process_group()


if __name__ == "__main__":
    member(Path(sys.argv[1]), Path(sys.argv[2]))
