"""A made-up run, committed as a real one: a policy whose chances are a formula, everything else
(verdicts, scores, shares) computed from its responses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from si.config.recipe import Recipe
from si.datasets.sources import parts
from si.embedded import families
from si.metrics import matthew, pass_rates
from si.randomness import keyed_rng
from si.records import EXAMPLES, LEVEL_TABLE, LEVELS, ROLLOUTS, VERDICTS, level
from si.stages.evaluate import evaluate
from si.stages.job import Job
from si.stages.verify import verify
from si.store.artifact import Artifact
from si.store.commit import Output, commit_shard, finish, settle
from si.store.keys import Ref, Spec, canonical
from si.store.port import Store

K = 8
TRAIN = {(f, d): n for f in ("tiles", "cone") for d, n in enumerate((12, 9, 6, 4, 3), 1)}
HELD_OUT = {(f, d): 8 for f in ("tiles", "cone") for d in range(1, 6)}
HOSTILE = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'>",
    "</svg></pre></style></title><svg onload='window.pwned = 3'>",
    "<a href='javascript:window.pwned = 4' autofocus onfocus='window.pwned = 5'>x</a>",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \x00\x1b[2J \u202e",
    "<iframe srcdoc='<script>parent.pwned = 6</script>'></iframe>",
)


def commit(store: Store, spec: Spec, outputs: Sequence[Output]) -> Ref:
    settle(store, f"{spec.address}/spec.json", canonical(spec.to_json()))
    for shard, output in enumerate(outputs):
        commit_shard(store, spec, shard, output)
    manifest = finish(store, spec)
    assert manifest is not None
    return manifest.ref


def settings(strategy: str) -> dict[str, Any]:
    recipe = Recipe(strategy=strategy, k=K).model_dump(mode="json")
    return {key: value for key, value in recipe.items() if key not in ("iterations", "name")}


def make_run(
    store: Store, scratch: Path, strategy: str, iterations: int = 4, hostile: bool = False
) -> dict[str, Ref]:
    """Commit a run; the report stage's inputs by role."""
    rule, _, reshape = strategy.partition("+")
    if rule in ("tc", "rp", "vanilla"):
        rule, reshape = "", rule
    made = {
        "train": families.generate("train", TRAIN, 0),
        "dev": families.generate("dev", HELD_OUT, 0),
        "test": families.generate("test", HELD_OUT, 0),
    }
    if hostile:
        for i, query in enumerate(made["train"]):
            query["question"] += HOSTILE[i % len(HOSTILE)]
            if i % 4 == 0:
                query["family"] = HOSTILE[i // 4 % 2]
            if i % 9 == 0:
                query["answer"] = HOSTILE[2]
            if i % 5 == 0:
                query["images"] = [*query["images"], b"<svg onload='window.pwned = 7'/>"]
    queries = [query for part in made.values() for query in part]
    outputs = [parts(part, split) for split, part in made.items()]
    rows = []
    for query in queries:
        k = sum(keyed_rng(query["query_id"], j).random() < chance(query, 0, "") for j in range(16))
        rows.append({"query_id": query["query_id"], "n": 16, "k": k, "level": level(16, k)})
    table = pa.Table.from_pylist(rows, LEVEL_TABLE)
    outputs.append(Output({"levels.parquet": table}, 0, {"separators": {}}))
    data = commit(store, Spec("synth", "made-up", {}, {"hostile": hostile}, {}, 4), outputs)
    levels = {row["query_id"]: row["level"] for row in rows}
    refs = {"data": data, "levels": data}

    def explore(t: int, number: int, asked: list[dict[str, Any]], more: Mapping[str, Ref]) -> Ref:
        responses = []
        for query in asked:
            for j in range(1 if number == 0 else K):
                responses.append(_response(query, t, number, j, strategy, hostile))
        spec = Spec(
            "explore",
            f"it{t:02d}-r{number}",
            {"strategy": strategy},
            {"iteration": t, "k": K, "round": number},
            {"data": data, **more},
        )
        table = pa.Table.from_pylist(responses, ROLLOUTS)
        facts = {
            "queries": len(asked),
            "samples": len(table),
            "tokens": sum(len(r["token_ids"]) - r["prefix_len"] for r in responses),
        }
        return commit(store, spec, [Output({"rollouts.parquet": table}, len(table), facts)])

    def run(stage: str, name: str, function: Any, params: Any, inputs: Mapping[str, Ref]) -> Ref:
        stage_settings = {"verify": {"math_timeout": 5.0}} if stage == "verify" else {}
        spec = Spec(stage, name, stage_settings, params, inputs)
        return commit(store, spec, [function(Job(store, spec, scratch))(0)])

    for t in range(iterations + 1):
        held_out = explore(t, 0, made["dev"] + made["test"], {})
        judged = run(
            "verify", f"it{t:02d}-heldout", verify, {}, {"data": data, "rollouts": held_out}
        )
        refs[f"scores-{t}"] = run(
            "evaluate",
            f"it{t:02d}",
            evaluate,
            {"iteration": t, "splits": ["dev", "test"]},
            {"data": data, "levels": data, "rollouts": held_out, "verdicts": judged},
        )
        if t == 0:
            continue
        rollouts = refs[f"explore-{t}"] = explore(t, 1, made["train"], {})
        verdicts = refs[f"verify-{t}"] = run(
            "verify", f"it{t:02d}-r1", verify, {}, {"data": data, "rollouts": rollouts}
        )
        rounds = [(rollouts, verdicts)]
        if rule:
            spec = Spec("resample", f"it{t:02d}-{rule}", {"strategy": rule}, {}, {"v": verdicts})
            draws = commit(store, spec, [Output({}, 1, {"samples_own": 90, "samples_plain": 6})])
            second = refs[f"explore2-{t}"] = explore(t, 2, made["train"][::3], {"draws": draws})
            refs[f"verify2-{t}"] = run(
                "verify", f"it{t:02d}-r2", verify, {}, {"data": data, "rollouts": second}
            )
            rounds.append((second, refs[f"verify2-{t}"]))
        examples, metrics = _rebalance(store, rounds, levels, reshape)
        spec = Spec(
            "rebalance",
            f"it{t:02d}-{reshape or 'vanilla'}",
            {"strategy": reshape or "vanilla"},
            {"iteration": t, "k": K},
            {"data": data, "levels": data, "rollouts-1": rollouts, "verdicts-1": verdicts},
        )
        files: dict[str, Any] = {
            "examples.parquet": pa.Table.from_pylist(examples, EXAMPLES),
            "metrics.json": canonical(metrics),
        }
        facts = {"examples": len(examples), "identical": 0.125}
        refs[f"examples-{t}"] = commit(store, spec, [Output(files, len(examples), facts)])
        steps = -(-2 * len(examples) // 48)
        facts = {
            "steps": steps,
            "examples": len(examples),
            "tokens": sum(len(row["token_ids"]) for row in examples),
            "dropped": 2,
            "losses": [round(0.4 / (1 + 0.1 * s) + 0.1 / t, 4) for s in range(steps)],
        }
        spec = Spec("train", f"it{t:02d}", {}, {}, {"examples-1": refs[f"examples-{t}"]})
        refs[f"policy-{t}"] = commit(store, spec, [Output({"config.json": b"{}"}, 1, facts)])
    return refs


def report_spec(refs: Mapping[str, Ref], strategy: str, iterations: int = 4) -> Spec:
    return Spec("report", "made-up", settings(strategy), {"iterations": iterations}, refs)


def artefact(store: Store, ref: Ref) -> Artifact:
    return Artifact.open(store, ref)


def chance(query: Mapping[str, Any], t: int, strategy: str) -> float:
    """Probability of a right answer; plain self-training helps where there is much already."""
    start = (0.95, 0.75, 0.45, 0.15, 0.04)[query["difficulty"] - 1]
    if strategy == "vanilla":
        return min(0.99, start * (1 + 0.9 * start) ** t)
    return min(0.97, start + (1 - start) * (1 - 0.93**t))


def _response(
    query: Mapping[str, Any], t: int, number: int, j: int, strategy: str, hostile: bool
) -> dict[str, Any]:
    # Round 0 is greedy: one number a query decides for all iterations.
    rng = keyed_rng("greedy" if number == 0 else t, query["query_id"], number, j)
    text = query["rationale"]
    if rng.random() > chance(query, t, strategy):
        head, _, answer = text.rpartition(" ")
        text = f"{head} {int(answer) + 1 + j}"
    if hostile and number:
        text = HOSTILE[j % len(HOSTILE)] + "\n" + text
    ends = [*range(3, len(text), 3), len(text)]
    lines = text.split("\n")
    guided = number == 2 and len(lines) > 2 and j % 2
    given = sum(end <= len(lines[0]) + 1 for end in ends) if guided else 0
    return {
        "query_id": query["query_id"],
        "round": number,
        "prefix_id": "p1" if guided else "",
        "sample": j,
        "seed": j,
        "token_ids": list(range(len(ends))),
        "token_ends": ends,
        "prefix_len": given,
        "text": text,
        "finish_reason": "stop",
        "logprob": -1.0,
    }


def _rebalance(
    store: Store, rounds: Sequence[tuple[Ref, Ref]], levels: Mapping[str, str], reshape: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    samples = []
    for rollouts, verdicts in rounds:
        rows = artefact(store, rollouts).tables("rollouts.parquet").to_pylist()
        said = artefact(store, verdicts).tables("verdicts.parquet").cast(VERDICTS).to_pylist()
        samples += [row | verdict for row, verdict in zip(rows, said, strict=True)]
    successes = [row for row in samples if row["correct"]]
    kept: dict[str, list[dict[str, Any]]] = {}
    for row in successes:
        kept.setdefault(row["query_id"], []).append(row)
    examples = []
    for rows in kept.values():
        if reshape == "rp":
            chosen = [(rows[j % len(rows)], j // len(rows)) for j in range(K)]
        else:
            chosen = [(row, 0) for row in rows[: K // 2 if reshape == "tc" else None]]
        examples += [
            {name: row[name] for name in EXAMPLES.names if name != "copy"} | {"copy": copy}
            for row, copy in chosen
        ]
    asked = sorted({row["query_id"] for row in samples})
    level_of = np.array([LEVELS.index(levels[query]) for query in asked])

    def sums(rows: Sequence[Mapping[str, Any]], value: Any) -> Any:
        total = dict.fromkeys(asked, 0)
        for row in rows:
            total[row["query_id"]] += value(row)
        return np.array(list(total.values()))

    def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        parts = (
            sums(rows, lambda _: 1),
            sums(rows, lambda row: len(row["token_ids"])),
            sums(rows, lambda row: row["text"].count("\n") + 1),
        )
        return matthew(level_of, *parts)

    first = [row for row in samples if row["round"] == 1]
    n, k = sums(first, lambda _: 1), sums(first, lambda row: row["correct"])
    return examples, {
        "successes": figures(successes),
        "examples": figures(examples),
        **pass_rates(level_of, n, k),
    }
