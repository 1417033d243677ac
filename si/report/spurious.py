"""Spurious successes: correct answers that are reached by wrong steps, before and after
re-balancing. Known only for synthetic queries, whose steps can be checked."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from si.datasets.dataset import Dataset
from si.embedded.steps import sound
from si.records import KEY, LEVELS, successes
from si.store.artifact import Artifact
from si.store.keys import Ref, Spec
from si.store.port import Store

Responses = Iterable[tuple[str, str]]  # (query id, text)


def shares(
    responses: Responses, steps: Mapping[str, tuple[str, str]], level: Mapping[str, str]
) -> dict[str, Any]:
    """How many of these correct responses have wrong steps.

    Args:
        responses: correct ones; those whose steps cannot be checked do not count.
        steps: query id -> its (family, rationale).
        level: query id -> its level.

    Returns:
        `n` responses checked, `spurious` ones among them, their `share` (0 to 1, None without
        any), and `n_by_level`, `share_by_level`.
    """
    checked, wrong = Counter[str](), Counter[str]()
    memo: dict[tuple[str, str], bool | None] = {}
    for one in responses:
        query, text = one
        if one not in memo:
            memo[one] = sound(*steps[query], text) if query in steps else None
        if memo[one] is not None:
            checked[level[query]] += 1
            wrong[level[query]] += not memo[one]
    n, spurious = checked.total(), wrong.total()
    return {
        "n": n,
        "spurious": spurious,
        "share": spurious / n if n else None,
        "n_by_level": {name: checked[name] for name in LEVELS},
        "share_by_level": {
            name: wrong[name] / checked[name] if checked[name] else None for name in LEVELS
        },
    }


def figures(store: Store, refs: Mapping[str, Ref], t: int) -> dict[str, Any] | None:
    """`shares` of an iteration's correct answers before re-balancing (`first_round`) and after it
    (`examples`); None if the data set is not synthetic.

    Args:
        refs: the report stage's inputs by role.
    """
    data = Dataset(Artifact.open(store, refs["data"]))
    if data.artifact.manifest.spec.stage != "synth":
        return None
    table = data.table(columns=["query_id", "family", "rationale"]).to_pydict()
    pairs = zip(table["family"], table["rationale"], strict=True)
    steps = {
        query: (family, text)
        for query, (family, text) in zip(table["query_id"], pairs, strict=True)
        if text
    }
    examples = refs[f"examples-{t}"]
    ref = Spec.load(store, examples.address).inputs["levels"]
    found = Artifact.open(store, ref).tables("levels.parquet", ["query_id", "level"])
    level = dict(zip(*(found[name].to_pylist() for name in ("query_id", "level")), strict=True))
    made = {
        "first_round": shares(_first_round(store, refs, t), steps, level),
        "examples": shares(_texts(Artifact.open(store, examples)), steps, level),
    }
    return made if made["first_round"]["n"] else None


def _texts(examples: Artifact) -> Iterator[tuple[str, str]]:
    for record in examples.manifest.shards:
        table = examples.table("examples.parquet", record.shard, ["query_id", "text"])
        yield from zip(*(table[name].to_pylist() for name in ("query_id", "text")), strict=True)


def _first_round(store: Store, refs: Mapping[str, Ref], t: int) -> Iterator[tuple[str, str]]:
    rollouts = Artifact.open(store, refs[f"explore-{t}"])
    verdicts = Artifact.open(store, refs[f"verify-{t}"])
    for record in verdicts.manifest.shards:
        said = verdicts.table("verdicts.parquet", record.shard, [*KEY, "correct"])
        texts = rollouts.table("rollouts.parquet", record.shard, [*KEY, "text"])
        right = successes(texts, said)
        yield from zip(*(right[name].to_pylist() for name in ("query_id", "text")), strict=True)
