"""Resample, rebalance and levels as stages: from committed rollouts to draws and examples."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from si.errors import DataError
from si.randomness import keyed_rng
from si.records import DRAWS, EXAMPLES, LEVEL_TABLE, QUERIES, ROLLOUTS, VERDICTS
from si.stages import rebalance as rebalance_module
from si.stages.job import Job, StageFunction
from si.stages.levels import levels
from si.stages.rebalance import rebalance, uses
from si.stages.resample import resample
from si.store.artifact import Artifact
from si.store.commit import Output, announce, commit_shard, finish
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec
from si.strategies import by_name

END = 0
LINES = {"tiles": "\n", "cone": "; "}


class World:
    """A store, and artefacts made by hand in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = FolderStore(folder / "store")

    def commit(self, stage: str, name: str, outputs: Sequence[Output]) -> Ref:
        spec = Spec(stage, name, {}, {}, {}, len(outputs))
        announce(self.store, spec)
        for shard, output in enumerate(outputs):
            assert commit_shard(self.store, spec, shard, output), f"{name} is taken"
        manifest = finish(self.store, spec)
        assert manifest is not None
        return manifest.ref

    def run(
        self,
        function: StageFunction,
        inputs: Mapping[str, Ref],
        settings: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> Artifact:
        """A stage done and committed, as workers do it."""
        spec = Spec(function.__name__, "made", settings or {}, params, inputs)
        scratch = self.folder / "scratch" / spec.key
        scratch.mkdir(parents=True)
        announce(self.store, spec)
        commit_shard(self.store, spec, 0, function(Job(self.store, spec, scratch))(0))
        finish(self.store, spec)
        return Artifact.open(self.store, spec.address)

    def data(self, queries: Mapping[str, str], rationales: Mapping[str, str] | None = None) -> Ref:
        """A data set of query id -> family, all of them for training."""
        rows = [
            {
                "query_id": query,
                "family": family,
                "question": "?",
                "answer": "7",
                "answer_kind": "number",
                "difficulty": 1,
                "rationale": (rationales or {}).get(query),
            }
            for query, family in queries.items()
        ]
        table = pa.Table.from_pylist(rows, QUERIES)
        facts = {"split": "train", "separators": LINES}
        return self.commit("synth", "data", [Output({"queries.parquet": table}, len(rows), facts)])

    def levels(self, named: Mapping[str, str], name: str = "levels") -> Ref:
        rows = [{"query_id": q, "n": 8, "k": 0, "level": v} for q, v in sorted(named.items())]
        table = pa.Table.from_pylist(rows, LEVEL_TABLE)
        return self.commit("levels", name, [Output({"levels.parquet": table}, len(rows))])

    def round(
        self,
        name: str,
        said: Mapping[str, Sequence[str]],
        number: int = 1,
        prefixes: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
        shard_queries: int = 2,
    ) -> dict[str, Ref]:
        """Rollouts and verdicts: query id -> its responses; those that say 7 are right."""
        rollouts, verdicts = [], []
        queries = list(said)
        for start in range(0, len(queries), shard_queries):
            rows = [
                row(query, number, sample, text, *(prefixes or {}).get(query, ("", ())))
                for query in sorted(queries[start : start + shard_queries])
                for sample, text in enumerate(said[query])
            ]
            judged = [
                {**r, "correct": r["text"].endswith("7"), "extracted": "", "method": "exact"}
                for r in rows
            ]
            table = pa.Table.from_pylist(rows, ROLLOUTS)
            rollouts.append(Output({"rollouts.parquet": table}, len(rows)))
            table = pa.Table.from_pylist(judged, VERDICTS)
            verdicts.append(Output({"verdicts.parquet": table}, len(rows)))
        return {
            "rollouts": self.commit("explore", name, rollouts),
            "verdicts": self.commit("verify", name, verdicts),
        }


def row(
    query: str, number: int, sample: int, text: str, prefix_id: str, prefix: tuple[int, ...]
) -> dict[str, Any]:
    """A rollout; tokens are characters' code points, and 0 ends the turn."""
    return {
        "query_id": query,
        "round": number,
        "prefix_id": prefix_id,
        "sample": sample,
        "seed": 1,
        "token_ids": [*map(ord, text), END],
        "token_ends": [*range(1, len(text) + 1), len(text)],
        "prefix_len": len(prefix),
        "text": text,
        "finish_reason": "stop",
        "logprob": -1.0,
    }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


SETTINGS: dict[str, Any] = {
    "seed": 0,
    "strategy": "gr",
    "ar": {"budget": 1.0, "cap": None},
    "gr": {"cuts": 4, "reference": False},
}
FIRST = {
    "c": ["one\n3", "one\ntwo\nthree\n7", "two\none\nthree\n7", "1"],
    "a": ["7", "7", "1\n7", "7"],
    "b": ["2", "3", "4", "5"],
    "d": ["1", "2", "7", "3"],
    "e": ["x; y; 7", "x\ny; 7", "1", "2"],
}
FAMILIES = dict.fromkeys("abcd", "tiles") | {"e": "cone"}
LEVELS = {"a": "L1", "b": "U", "c": "L3", "d": "L5", "e": "L3"}


def decoded(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


def test_gr_draws_prefixes_of_successes(world: World) -> None:
    """Draws continue stored successes of queries not yet solved K times, at their family's
    steps; what no success guides is sampled plainly, and the facts tell how many."""
    first = world.round("r1", FIRST)
    inputs = {"data": world.data(FAMILIES), **first}
    made = world.run(resample, inputs, SETTINGS, iteration=1, k=4)
    table = made.table("draws.parquet")
    assert table.schema.equals(DRAWS)
    draws = table.to_pylist()
    assert draws == sorted(draws, key=lambda draw: (draw["query_id"], draw["prefix_id"]))
    by_query: dict[str, list[Any]] = {}
    for draw in draws:
        by_query.setdefault(draw["query_id"], []).append(draw)
    assert {q: sum(d["n"] for d in mine) for q, mine in by_query.items()} == {
        "b": 4,
        "c": 2,
        "d": 3,
        "e": 2,
    }
    assert [d["source"] for d in by_query["b"] + by_query["d"]] == ["plain", "plain"]
    for query in "ce":
        for draw in by_query[query]:
            prefix = decoded(draw["prefix_ids"])
            assert prefix.endswith(LINES[FAMILIES[query]]) and draw["prefix_id"].startswith("c00")
            assert any(text.startswith(prefix) and text[-1] == "7" for text in FIRST[query])
    assert made.manifest.facts == {
        "queries": 4,
        "draws": len(draws),
        "samples": 11,
        "samples_own": 4,
        "samples_earlier": 0,
        "samples_reference": 0,
        "samples_plain": 7,
    }
    assert made.manifest.rows == len(draws)


def test_draws_do_not_hang_on_shards(world: World) -> None:
    """The same rollouts in other shards give the same draws."""
    data = world.data(FAMILIES)
    tables = [
        world.run(
            resample,
            {"data": data, **world.round(f"r1-{size}", FIRST, shard_queries=size)},
            SETTINGS,
            iteration=1,
            k=4,
        ).table("draws.parquet")
        for size in (1, 2, 5)
    ]
    assert tables[0].equals(tables[1]) and tables[1].equals(tables[2])


def test_gr_looks_back_where_nothing_was_solved(world: World) -> None:
    """A query without a success now is guided by an earlier iteration's; its own come first."""
    now = world.round("now", {"a": ["1", "2"], "b": ["1\n7", "2"]})
    inputs = {"data": world.data({"a": "tiles", "b": "tiles"}), **now}
    for t, texts in enumerate([["one\n7", "2"], ["1", "uno\n7"]], 1):
        before = world.round(f"t{t}", {"b": ["old\n7", "2"], "a": texts}, shard_queries=t)
        inputs |= {f"earlier-{role}-{t}": ref for role, ref in before.items()}
    prefixes = set()
    for seed in range(12):
        settings = SETTINGS | {"seed": seed}
        made = world.run(resample, inputs, settings, iteration=3, k=2)
        a, b = made.table("draws.parquet").to_pylist()
        assert (a["query_id"], a["n"], a["source"]) == ("a", 2, "earlier")
        assert (b["source"], decoded(b["prefix_ids"])) == ("own", "1\n")
        prefixes.add(decoded(a["prefix_ids"]))
    assert prefixes == {"one\n", "uno\n"}


def tokenizer() -> Tokenizer:
    """One token a byte, and one for `+ `."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "+Ġ"]
    vocab = {piece: i for i, piece in enumerate(alphabet)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("+", "Ġ")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def test_gr_may_continue_the_datas_rationale(world: World) -> None:
    """Where the recipe allows it, an unsolved query is guided by its rationale, tokenised once by
    the policy's tokenizer; one that is longer than a response may be is left alone."""
    rationales = {"a": "é + 3\nthus 7。\nAnswer: 7", "b": "long\n" * 9 + "7"}
    data = world.data({"a": "tiles", "b": "tiles", "c": "tiles"}, rationales)
    file = tokenizer().to_str().encode()
    policy = world.commit("fetch", "policy", [Output({"tokenizer.json": file}, 1)])
    first = world.round("r1", {"a": ["1"] * 4, "b": ["1"] * 4, "c": ["1"] * 4})
    inputs = {"data": data, "policy": policy, **first}
    allowed = SETTINGS | {"gr": {"cuts": 4, "reference": True}, "sampling.max_new_tokens": 30}
    made = world.run(resample, inputs, allowed, iteration=1, k=4)
    draws = made.table("draws.parquet").to_pylist()
    guided = [draw for draw in draws if draw["source"] == "reference"]
    assert {tokenizer().decode(d["prefix_ids"]) for d in guided} == {"é + 3\n", "é + 3\nthus 7。\n"}
    assert {d["query_id"] for d in guided} == {"a"}
    assert made.manifest.facts["samples_reference"] == 4
    assert made.manifest.facts["samples_plain"] == 8
    plain = world.run(resample, inputs, SETTINGS, iteration=1, k=4)
    assert plain.manifest.facts["samples_plain"] == 12


def test_ar_draws_plain_samples(world: World) -> None:
    """Adaptive resampling asks for samples without a prefix, over all shards together."""
    inputs = {"data": world.data(FAMILIES), **world.round("r1", FIRST)}
    settings = SETTINGS | {"strategy": "ar", "ar": {"budget": 0.5, "cap": None}}
    made = world.run(resample, inputs, settings, iteration=1, k=4)
    draws = made.table("draws.parquet").to_pylist()
    assert sum(draw["n"] for draw in draws) == made.manifest.facts["samples"] == 6  # 0.5 x 11
    assert {d["source"] for d in draws} == {"plain"}
    assert {d["prefix_id"] for d in draws} == {""}


def test_no_draws_where_all_is_solved(world: World) -> None:
    """If every sample is right there is nothing to resample, and that is an empty table."""
    inputs = {"data": world.data({"a": "tiles"}), **world.round("r1", {"a": ["7", "7"]})}
    for strategy in ("ar", "gr"):
        settings = SETTINGS | {"strategy": strategy}
        made = world.run(resample, inputs, settings, iteration=1, k=2)
        assert made.manifest.rows == 0 and made.manifest.facts["queries"] == 0
        assert made.table("draws.parquet").schema.equals(DRAWS)


# --- rebalance -----------------------------------------------------------------------------


def both_rounds(world: World) -> dict[str, Ref]:
    """Inputs of rebalance: the first round, and a second one guided by `one` in query c."""
    prefix = ("c001-00000000", tuple(map(ord, "one\n")))
    second = world.round(
        "r2", {"c": ["one\nthen\n7", "one\n2"], "b": ["5", "7"]}, 2, {"c": prefix}, 1
    )
    first = world.round("r1", FIRST)
    return {
        "data": world.data(FAMILIES),
        "levels": world.levels(LEVELS),
        **{f"{role}-1": ref for role, ref in first.items()},
        **{f"{role}-2": ref for role, ref in second.items()},
    }


def keys(made: Artifact) -> list[tuple[Any, ...]]:
    rows = made.table("examples.parquet").to_pylist()
    names = ("query_id", "round", "prefix_id", "sample", "copy")
    return [tuple(row[name] for name in names) for row in rows]


def balanced(world: World, inputs: Mapping[str, Ref], strategy: str, **more: Any) -> Artifact:
    settings = {"seed": 0, "tc": {"limit": None}, "strategy": strategy} | more
    return world.run(rebalance, inputs, settings, iteration=1, k=4)


def test_vanilla_trains_on_every_success_of_both_rounds(world: World) -> None:
    """All successes, sorted; a guided one is prefix and continuation as stored, and begins with
    its prefix's text."""
    made = balanced(world, both_rounds(world), "vanilla")
    assert made.table("examples.parquet").schema.equals(EXAMPLES)
    assert keys(made) == [
        ("a", 1, "", 0, 0),
        ("a", 1, "", 1, 0),
        ("a", 1, "", 2, 0),
        ("a", 1, "", 3, 0),
        ("b", 2, "", 1, 0),
        ("c", 1, "", 1, 0),
        ("c", 1, "", 2, 0),
        ("c", 2, "c001-00000000", 0, 0),
        ("d", 1, "", 2, 0),
        ("e", 1, "", 0, 0),
        ("e", 1, "", 1, 0),
    ]
    guided = made.table("examples.parquet").to_pylist()[7]
    assert guided["text"] == "one\nthen\n7" and guided["prefix_len"] == 4
    assert guided["text"].startswith(decoded(guided["token_ids"][: guided["prefix_len"]]))
    assert decoded(guided["token_ids"][:-1]) == guided["text"] and guided["token_ids"][-1] == END
    assert made.manifest.facts == {
        "queries": 5,
        "solved": 5,
        "successes": 11,
        "examples": 11,
        "tokens": sum(len(row["token_ids"]) for row in made.table("examples.parquet").to_pylist()),
        "identical": 3 / 11,
    }


def test_rp_pads_to_k_with_both_rounds(world: World) -> None:
    """Every solved query has K examples; first successes get the odd copies."""
    made = balanced(world, both_rounds(world), "rp")
    found = keys(made)
    assert [sum(key[0] == query for key in found) for query in "abcde"] == [4] * 5
    assert [key[1:] for key in found if key[0] == "c"] == [
        (1, "", 1, 0),
        (1, "", 1, 1),
        (1, "", 2, 0),
        (2, "c001-00000000", 0, 0),
    ]
    assert [key[4] for key in found if key[0] == "d"] == [0, 1, 2, 3]


def test_tc_clips_to_l(world: World) -> None:
    """No query has more than L examples, and which ones depends on the seed."""
    inputs = both_rounds(world)
    chosen = set()
    for seed in range(8):
        found = keys(balanced(world, inputs, "tc", seed=seed))
        assert [sum(key[0] == query for key in found) for query in "abcde"] == [2, 1, 2, 1, 2]
        assert found == sorted(found)
        chosen.add(tuple(found))
    assert len(chosen) > 1
    one = keys(balanced(world, inputs, "tc", tc={"limit": 1}))
    assert [sum(key[0] == query for key in one) for query in "abcde"] == [1] * 5


def test_metrics_are_of_both_rounds_and_accuracy_of_the_first(world: World) -> None:
    """Successes count in both rounds; levels and pass rates look at the first round only; steps
    are counted by each family's separator."""
    made = balanced(world, both_rounds(world), "rp")
    metrics = made.json("metrics.json")
    assert metrics["queries_by_level"] == {"L1": 1, "L2": 0, "L3": 2, "L4": 0, "L5": 1, "U": 1}
    assert metrics["accuracy_by_level"] == {
        "L1": 1.0,
        "L2": None,
        "L3": 0.5,
        "L4": None,
        "L5": 0.25,
        "U": 0.0,
    }
    right, used = metrics["successes"], metrics["examples"]
    assert right["count_by_level"] == {"L1": 4, "L2": 0, "L3": 5, "L4": 0, "L5": 1, "U": 1}
    assert right["head_tail_ratio"] == 2 and used["head_tail_ratio"] == 0.5
    assert used["gini"] == used["gini_solved"] == 0 and used["entropy"] == pytest.approx(1)
    assert right["steps_by_level"]["L1"] == 1.25
    assert right["steps_by_level"]["L3"] == (4 + 4 + 3 + 3 + 2) / 5
    assert right["tokens_by_level"]["L5"] == 2.0
    assert used["steps_by_level"]["L1"] == 1.25
    assert made.manifest.facts["examples"] == used["total"] == 20


@pytest.mark.parametrize("strategy", ["vanilla", "tc", "rp"])
def test_buckets_change_no_example(
    world: World, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Sorting in many small buckets gives the rows and metrics that one large one gives."""
    inputs = both_rounds(world)
    whole = balanced(world, inputs, strategy)
    for number in (1, 3, 100):
        other = World(world.folder / f"{number}")
        other.store = world.store
        monkeypatch.setattr(rebalance_module, "BUCKET", 1)
        monkeypatch.setattr(rebalance_module, "HELD", 2)
        monkeypatch.setattr(rebalance_module, "MOST_BUCKETS", number)
        spec = whole.manifest.spec
        scratch = other.folder / "scratch"
        scratch.mkdir(parents=True)
        made = rebalance(Job(world.store, spec, scratch))(0)
        assert made.facts == whole.manifest.facts
        path = made.files["examples.parquet"]
        assert isinstance(path, Path)
        assert pq.read_table(path).equals(whole.table("examples.parquet"))
        assert made.files["metrics.json"] == whole.read("metrics.json")
        assert [file.name for file in scratch.iterdir()] == ["examples.parquet"]


def test_nothing_right_is_an_empty_table(world: World) -> None:
    """Without a success there are no examples, and figures that do not exist are null."""
    first = world.round("r1", {"a": ["1", "2"], "b": ["1"]})
    inputs = {f"{role}-1": ref for role, ref in first.items()}
    inputs |= {
        "data": world.data({"a": "tiles", "b": "tiles"}),
        "levels": world.levels({"a": "U", "b": "U"}),
    }
    made = balanced(world, inputs, "rp")
    assert len(made.table("examples.parquet")) == 0
    assert made.manifest.facts["examples"] == 0 and made.manifest.facts["identical"] == 0.0
    metrics = made.json("metrics.json")
    assert metrics["successes"]["share_by_level"]["U"] is None
    assert metrics["successes"]["gini"] is None


def test_verdicts_on_other_rollouts_are_refused(world: World) -> None:
    """Verdicts that are not about the rollouts beside them, or queries that nobody knows, stop
    the stage with words."""
    inputs = both_rounds(world)
    other = world.round("other", {**FIRST, "c": ["7"] * 5})
    with pytest.raises(DataError, match="are about different samples"):
        balanced(world, inputs | {"verdicts-1": other["verdicts"]}, "rp")
    few = world.levels({q: v for q, v in LEVELS.items() if q != "d"}, "few")
    with pytest.raises(DataError, match="1 queries have no level"):
        balanced(world, inputs | {"levels": few}, "rp", seed=1)
    stray = world.round("stray", {"z": ["7"]}, 2)
    strange = {f"{role}-2": ref for role, ref in stray.items()}
    with pytest.raises(DataError, match="belong to no query of the first"):
        balanced(world, inputs | strange, "rp", seed=2)


@given(
    st.lists(st.integers(0, 12), max_size=20),
    st.integers(1, 8),
    st.sampled_from(["vanilla", "tc", "rp", "gr+tc", "ar+rp"]),
    st.integers(0, 3),
)
def test_columns_agree_with_the_strategy(counts: list[int], k: int, name: str, seed: int) -> None:
    """Whole columns at once give each success as often as asking query by query does."""
    strategy, rng = by_name(name), partial(keyed_rng, seed)
    ids = [f"q{i}" for i in range(len(counts))]
    found = uses(strategy, np.array(counts, np.int64), pa.array(ids, pa.string()), k, rng)
    expected: list[int] = []
    for query_id, count in zip(ids, counts, strict=True):
        picked = strategy.reshape(range(count), k, partial(rng, query_id))
        expected += [picked.count(success) for success in range(count)]
    assert found.tolist() == expected


# --- gr, end to end ------------------------------------------------------------------------


def test_gr_end_to_end(world: World) -> None:
    """First round, draws, second round from the draws' prefixes, examples: every guided example
    begins with a draw's prefix, in ids and in text, and each query has K samples' worth."""
    data, level = world.data(FAMILIES), world.levels(LEVELS)
    first = world.round("r1", FIRST)
    drawn = world.run(resample, {"data": data, **first}, SETTINGS, iteration=1, k=4)
    draws = drawn.table("draws.parquet").to_pylist()
    rows = [
        row(
            d["query_id"],
            2,
            sample,
            decoded(d["prefix_ids"]) + ("go on 7" if sample % 2 == 0 else "8"),
            d["prefix_id"],
            tuple(d["prefix_ids"]),
        )
        for d in draws
        for sample in range(d["n"])
    ]
    judged = [
        {**r, "correct": r["text"].endswith("7"), "extracted": "", "method": "exact"} for r in rows
    ]
    rollouts = Output({"rollouts.parquet": pa.Table.from_pylist(rows, ROLLOUTS)}, len(rows))
    verdicts = Output({"verdicts.parquet": pa.Table.from_pylist(judged, VERDICTS)}, len(rows))
    inputs = {
        "data": data,
        "levels": level,
        **{f"{role}-1": ref for role, ref in first.items()},
        "rollouts-2": world.commit("explore", "r2", [rollouts]),
        "verdicts-2": world.commit("verify", "r2", [verdicts]),
    }
    made = balanced(world, inputs, "vanilla")
    examples = made.table("examples.parquet").to_pylist()
    guides = {(d["query_id"], d["prefix_id"]): d["prefix_ids"] for d in draws}
    second = [example for example in examples if example["round"] == 2]
    assert len(second) == sum(r["text"].endswith("7") for r in rows) > 4
    assert sum(example["prefix_len"] > 0 for example in second) >= 2
    for example in second:
        guide = guides[example["query_id"], example["prefix_id"]]
        assert example["token_ids"][: example["prefix_len"]] == guide
        assert example["text"].startswith(decoded(guide))
    assert keys(made) == sorted(keys(made))
    per_query = {q: 4 + sum(r["query_id"] == q for r in rows) for q in FIRST}
    right = {q: sum(t.endswith("7") for t in texts) for q, texts in FIRST.items()}
    assert per_query == {q: 8 - right[q] for q in FIRST}


# --- levels --------------------------------------------------------------------------------


def test_levels_count_all_verdicts(world: World) -> None:
    """A query's level is its pass rate over all samples, wherever they lie."""
    one = world.round("one", {"b": ["7"] * 4, "a": ["1", "7", "1", "1"], "c": ["1"] * 4})
    two = world.round("two", {"a": ["1"] * 4, "d": ["7", "7", "7", "1", "1"]})
    inputs = {"verdicts-1": one["verdicts"], "verdicts-2": two["verdicts"]}
    made = world.run(levels, inputs)
    table = made.table("levels.parquet")
    assert table.schema.equals(LEVEL_TABLE)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", 8, 1, "L5"),
        ("b", 4, 4, "L1"),
        ("c", 4, 0, "U"),
        ("d", 5, 3, "L2"),
    ]
    assert made.manifest.facts == {"queries": 4}
