"""A run's own figures instead of assumptions: pass rates, lengths, seconds, bytes.

Rates come from the attempts' provenance, so a run on the same machines with the same model and
engine predicts the next one. Start-up is separated from work by least squares over all explore
attempts: seconds = start (of a worker's first shard) + queries + tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from si.config.recipe import Recipe
from si.costs.assumptions import CPU, Assumptions
from si.entry import Entry
from si.errors import DataError
from si.records import outcomes
from si.runs.record import generations, load_recipe
from si.runs.status import entries
from si.runs.usage import Ledger, intervals
from si.stages import STAGES
from si.store.artifact import Artifact
from si.store.commit import Manifest, load_manifest
from si.store.keys import Spec
from si.store.port import Store

JUDGED = ["query_id", "prefix_id", "correct"]
EVEN = 0.5  # cuts are spread evenly over a response
CONSTANT = [stage.name for stage in STAGES.values() if not (stage.sharded or stage.gpus)]


def calibrate(store: Store, run: str) -> tuple[Assumptions, Recipe]:
    """The figures of a run with at least one complete iteration, and its recipe.

    Raises:
        DataError: if it has no complete iteration.
    """
    made: dict[str, Manifest] = {}
    for entry, address in entries(store, run).items():
        manifest = load_manifest(store, Spec.load(store, address))
        if manifest is not None:
            made[entry] = manifest
    if "it01/evaluate" not in made:
        raise DataError(
            f"The run {run} has no complete iteration to calibrate with",
            f"in {store.url}",
            "Continue it first: the same `si-ctl iterate` command resumes.",
        )
    ledger = Ledger(store)
    recipe = load_recipe(store, run, generations(store, run)[-1])
    trained = _training(made, ledger)
    figures = {
        **_data(store, made),
        **_passes(store, made),
        **_lengths(store, made),
        **_sampling(made, ledger, trained["prompt"]),
        **trained,
        **_rest(made, ledger),
        **_sizes(made),
    }
    return Assumptions(**figures, sources=dict.fromkeys(figures, f"run {run}")), recipe


def _of(made: dict[str, Manifest], stage: str) -> list[Manifest]:
    """The artefacts of one kind of stage without duplicates, policy 0's first."""
    found = {m.spec.address: m for m in made.values() if m.spec.stage == stage}
    return list(found.values())


def _data(store: Store, made: dict[str, Manifest]) -> dict[str, Any]:
    return {
        "queries": made["it01/explore"].facts["queries"],
        "held_out": made["it00/evaluate-explore"].facts["queries"],
        "levels_known": not any(Entry.parse(entry).step == "levels-explore" for entry in made),
        "data_bytes": _bytes([made["it00/data"]]),
        "base_bytes": _bytes([made["it00/policy"]]),
    }


def _passes(store: Store, made: dict[str, Manifest]) -> dict[str, Any]:
    """Mean and spread of the pass rates from the first rounds' outcomes, over all iterations, and
    the gain from a guided prefix.

    With k correct of n: E[k]/n = E[p], E[k(k-1)]/n(n-1) = E[p^2]; of a Beta, a + b is
    (E[p] - E[p^2]) / (E[p^2] - E[p]^2).
    """
    verdicts = {
        entry: Artifact(store, manifest).tables("verdicts.parquet", JUDGED)
        for entry, manifest in made.items()
        if entry.endswith(("/verify", "/verify-2"))
    }
    firsts = {
        entry: outcomes(table)
        for entry, table in verdicts.items()
        if not Entry.parse(entry).step.endswith("-2")
    }
    every = pa.concat_tables(firsts.values())
    hits, drawn = (every[name].to_numpy().astype(float) for name in ("k", "n"))
    mean = float((hits / drawn).mean())
    square = float((hits * (hits - 1) / np.maximum(1, drawn * (drawn - 1))).mean())
    spread = float(np.clip((mean - square) / max(1e-6, square - mean * mean), 0.05, 1000))
    gap = closed = 0.0
    for entry, first in firsts.items():
        if f"{entry}-2" not in verdicts:
            continue
        second = verdicts[f"{entry}-2"]
        guided = second.filter(pc.not_equal(second["prefix_id"], ""))
        if not len(guided):
            continue
        # The expectation for a plain sample of the same query: k of n correct, and the prior.
        plain = pc.divide(pc.add(first["k"], mean * spread), pc.add(first["n"], spread))
        rows = pc.index_in(guided["query_id"].combine_chunks(), first["query_id"].combine_chunks())
        chance = plain.take(rows).to_numpy()
        gap += float((1 - chance).sum())
        closed += float((guided["correct"].to_numpy() - chance).sum())
    return {
        "pass_rate": mean,
        "spread": spread,
        "guided": float(np.clip(closed / gap, 0, 1)) if gap else 0.0,
    }


def _lengths(store: Store, made: dict[str, Manifest]) -> dict[str, Any]:
    """Tokens of responses, and the share that a guided sample still had to generate."""
    first, scored, second = (
        [manifest for entry, manifest in made.items() if entry.endswith(f"/{name}")]
        for name in ("explore", "evaluate-explore", "explore-2")
    )
    response = _mean(first)
    said = whole = guided = samples = 0
    for manifest in second:
        table = Artifact(store, manifest).tables("rollouts.parquet", ["prefix_len", "token_ids"])
        lengths = pc.list_value_length(table["token_ids"])
        given = table["prefix_len"]
        samples += len(table)
        whole += pc.sum(lengths).as_py() or 0
        mine = pc.greater(given, 0)
        guided += pc.sum(lengths.filter(mine)).as_py() or 0
        said += pc.sum(pc.subtract(lengths, given).filter(mine)).as_py() or 0
    return {
        "response": response,
        "response_second": whole / samples if samples else response,
        "response_scored": _mean(scored),
        "continued": said / guided if guided else EVEN,
    }


def _mean(explored: Iterable[Manifest]) -> float:
    """Mean tokens of a sampled response."""
    samples, tokens = (sum(m.facts[name] for m in explored) for name in ("samples", "tokens"))
    return float(tokens / max(1, samples))


def _sampling(made: dict[str, Manifest], ledger: Ledger, prompt: float) -> dict[str, Any]:
    rows, seconds, devices = [], [], {CPU}
    for manifest in _of(made, "explore"):
        facts = {record.shard: record.facts for record in manifest.shards}
        for attempt, first in _attempts(ledger, manifest):
            fact, gpus = facts[attempt["shard"]], attempt.get("gpus", 0)
            if gpus:
                devices = {attempt.get("gpu") or "GPU"}
            rows.append((float(first), fact["queries"], fact["tokens"]))
            seconds.append(attempt.get("seconds", 0.0) * max(1, gpus))
    start, query, token = _least(rows, seconds)
    return {
        "device": next(iter(devices)),
        "explore_start": start,
        "prompt_seconds": query / max(1.0, prompt),
        "token_seconds": token,
    }


def _attempts(ledger: Ledger, manifest: Manifest) -> Iterator[tuple[dict[str, Any], bool]]:
    """Attempts on an artefact in the order in which they ended, each with whether it was its
    worker's first, which includes the start."""
    begun: set[Any] = set()
    found = ledger.attempts(manifest.spec.address)
    for attempt in sorted(found, key=lambda a: (a.get("finished", ""), a["shard"])):
        yield attempt, attempt.get("worker") not in begun
        begun.add(attempt.get("worker"))


def _least(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Least squares without negative coefficients: columns that would get one are left out."""
    columns = list(range(len(rows[0])))
    x, y = np.array(rows, float), np.array(seconds, float)
    while True:
        fit, *_ = np.linalg.lstsq(x[:, columns], y, rcond=None)
        if len(columns) == 1 or min(fit) >= 0:
            break
        columns.remove(columns[int(np.argmin(fit))])
    found = [0.0] * len(rows[0])
    for column, value in zip(columns, fit.tolist(), strict=True):
        found[column] = max(0.0, value)
    return found


def _training(made: dict[str, Manifest], ledger: Ledger) -> dict[str, Any]:
    """Seconds per token by the trainer's own clock, and the rest of its stage's time."""
    seen = stepping = whole = lengths = answers = 0.0
    stages = 0
    for manifest in _of(made, "train"):
        facts = manifest.facts
        settings = manifest.spec.settings["train"]
        for attempt in ledger.attempts(manifest.spec.address):
            speed = attempt.get("train", {})
            gpus = max(1, attempt.get("gpus", 0))
            examples = facts["examples"] * settings["epochs"]
            if manifest.spec.params["steps"] is not None:
                examples = facts["steps"] * settings["batch"]
            stages += gpus
            seen += examples
            whole += attempt.get("seconds", 0.0) * gpus
            stepping += sum(speed.get("seconds", [attempt.get("seconds", 0.0)])) * gpus
            lengths += sum(speed.get("tokens", []))
            answers += facts["tokens"] / max(1, facts["examples"]) * examples
    # A trainer that does not report lengths counts as one with empty prompts.
    lengths = lengths or answers
    return {
        "trained_seconds": stepping / lengths,
        "train_start": max(0.0, whole - stepping) / stages,
        "prompt": max(0.0, lengths - answers) / seen,
        "pictures": 0.0,
    }


def _rest(made: dict[str, Manifest], ledger: Ledger) -> dict[str, Any]:
    rows, seconds = [], []
    for manifest in _of(made, "verify"):
        facts = {record.shard: record.facts for record in manifest.shards}
        for attempt, first in _attempts(ledger, manifest):
            rows.append((float(first), facts[attempt["shard"]]["samples"]))
            seconds.append(attempt.get("seconds", 0.0))
    start, verdict = _least(rows, seconds)
    others = [ledger.work(m.spec.address).seconds for s in CONSTANT for m in _of(made, s)]
    every = {m.spec.address: m for m in made.values()}
    spans = [list(intervals(ledger.attempts(address))) for address in every]
    stages = sorted((min(b for b, _ in s), max(e for _, e in s)) for s in spans if s)
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(stages)]
    gaps = [min(max(0.0, gap), 60.0) for gap in gaps if gap < 600]  # longer ones were a pause
    return {
        "verify_start": start,
        "verdict_seconds": verdict,
        "stage_seconds": sum(others) / max(1, len(others)),
        "between": sum(gaps) / max(1, len(gaps)),
    }


def _sizes(made: dict[str, Manifest]) -> dict[str, Any]:
    explored, judged, trained = (_of(made, stage) for stage in ("explore", "verify", "train"))
    tokens = sum(manifest.facts["tokens"] for manifest in explored)
    samples = sum(manifest.facts["samples"] for manifest in judged)
    return {
        "token_bytes": _bytes(explored) / tokens,
        "verdict_bytes": _bytes(judged) / samples,
        "policy_bytes": _bytes(trained) / len(trained),
    }


def _bytes(manifests: Iterable[Manifest]) -> float:
    return float(sum(blob.size for m in manifests for r in m.shards for blob in r.blobs))
