"""Exploration: the stage with a scripted sampler, the transformers sampler with a tiny model."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from si.config.recipe import Sampling
from si.engines import transformers as adapter
from si.engines.hf import collate, decode
from si.engines.port import Sampler
from si.engines.transformers import GumbelNoise, TransformersSampler, nucleus
from si.errors import RecipeError, SiError
from si.plugins import load
from si.randomness import keyed_seed
from si.records import DRAWS, IMAGES, QUERIES, ROLLOUTS, Draw, Request, Sampled
from si.stages.explore import explore, shard_draws
from si.stages.job import Job
from si.store.commit import Output, announce, commit_shard, encode_table, finish
from si.store.folder import FolderStore
from si.store.keys import Ref, Spec
from tests.unit import tiny
from tests.unit.settings import sampling

SAMPLING: dict[str, Any] = {
    "engine": "tests.unit.test_explore:ScriptedSampler",
    "dtype": "float32",
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 12,
    "batch": 4,
    "system_prompt": "",
}


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy with random weights, and not too uniform a taste."""
    return tiny.build(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def make(policy: Path) -> Callable[..., TransformersSampler]:
    """Samplers of that policy with other settings."""
    return lambda **more: TransformersSampler(policy, policy, sampling(**{**SAMPLING, **more}))


@pytest.fixture(scope="session")
def sampler(make: Callable[..., TransformersSampler]) -> TransformersSampler:
    return make()


def request(number: int, samples: int = 3, limit: int = 12, **more: Any) -> Request:
    """A request about a picture; longer questions for higher numbers, so that padding differs."""
    seeds = tuple(keyed_seed("test", number, j) for j in range(samples))
    question = "red plus blue" + " plus red" * (number % 3)
    return Request(question, (tiny.picture(number),), seeds, max_new_tokens=limit, **more)


def sample(sampler: TransformersSampler, *requests: Request) -> list[list[Sampled]]:
    return list(sampler.sample(requests))


# --- the sampler: reproducible --------------------------------------------------------------


def test_equal_requests_give_equal_bits(make: Callable[..., TransformersSampler]) -> None:
    """Two samplers, one of which has sampled something else before, give equal tokens and bits."""
    requests = [request(i) for i in range(6)]
    fresh, used = make(), make()
    sample(used, request(9), request(8, 5))
    assert sample(fresh, *requests) == sample(used, *requests)


def test_threads_do_not_change_bits(make: Callable[..., TransformersSampler]) -> None:
    """The sampler computes on one thread, whatever the process was set to before."""
    torch.set_num_threads(2)
    one = sample(make(), request(1))
    assert torch.get_num_threads() == 1
    assert sample(make(), request(1)) == one


def test_a_batch_depends_on_its_own_requests_only(sampler: TransformersSampler) -> None:
    """What follows a full batch of requests leaves its bits alone."""
    requests = [request(i) for i in range(7)]
    assert sample(sampler, *requests)[:4] == sample(sampler, *requests[:4])


def test_first_eight_of_sixteen(sampler: TransformersSampler) -> None:
    """The first 8 samples of K = 16 are, bit for bit, the samples of K = 8."""
    sixteen = sample(sampler, *(request(i, 16) for i in range(5)))
    eight = sample(sampler, *(request(i, 8) for i in range(5)))
    assert [samples[:8] for samples in sixteen] == eight


def test_seeds_are_independent(sampler: TransformersSampler) -> None:
    """Changing one sequence's seed changes its tokens and no other's."""
    requests = [request(i, 4) for i in range(3)]
    before = sample(sampler, *requests)
    other = replace(requests[1], seeds=(*requests[1].seeds[:2], 77, requests[1].seeds[3]))
    after = sample(sampler, requests[0], other, requests[2])
    differing = {
        (i, j)
        for i, (old, new) in enumerate(zip(before, after, strict=True))
        for j, (one, two) in enumerate(zip(old, new, strict=True))
        if one.token_ids != two.token_ids
    }
    assert differing == {(1, 2)}


def test_equal_seeds_draw_equally_in_any_company(
    make: Callable[..., TransformersSampler], sampler: TransformersSampler
) -> None:
    """Alone or padded beside longer prompts, a sequence draws the same tokens."""
    requests = [request(i, 8, 20 + 5 * i) for i in range(4)]
    together = sample(sampler, *requests)
    alone = [sample(make(batch=1), each)[0] for each in requests]
    for one, two in zip(itertools.chain(*together), itertools.chain(*alone), strict=True):
        assert one.token_ids == two.token_ids
        assert one.logprob == pytest.approx(two.logprob, abs=1e-3)


# --- the sampler: right ---------------------------------------------------------------------


def test_greedy_is_generate(
    make: Callable[..., TransformersSampler], sampler: TransformersSampler
) -> None:
    """Temperature 0 gives what transformers' own greedy generation gives, padding and all."""
    requests = [request(i, 1) for i in range(4)]
    ours = [samples[0] for samples in sample(make(temperature=0.0), *requests)]
    prompts = [sampler.prompts(r.question, r.images) for r in requests]
    batch = collate(prompts, [()] * 4, sampler.tokenizer.pad_token_id)
    suppressed = torch.nonzero(sampler.forbidden).flatten().tolist()
    whole = sampler.model.generate(
        **batch, do_sample=False, max_new_tokens=12, suppress_tokens=suppressed
    )
    theirs = whole[:, batch["input_ids"].shape[1] :].tolist()
    for one, ids in zip(ours, theirs, strict=True):
        assert list(one.token_ids) == ids[: len(one.token_ids)]
        assert set(ids[len(one.token_ids) :]) <= {sampler.tokenizer.pad_token_id}


def test_logprob_is_the_models(sampler: TransformersSampler) -> None:
    """`logprob` is the sum of the log-softmax of the plain logits over the continuation."""
    asked = request(1, 2)
    prompt = sampler.prompts(asked.question, asked.images)
    for one in sample(sampler, asked)[0]:
        batch = collate([prompt], [one.token_ids], 0)
        with torch.no_grad():
            logprobs = sampler.model(**batch).logits[0].log_softmax(-1)
        at = range(len(prompt.ids) - 1, len(prompt.ids) - 1 + len(one.token_ids))
        want = sum(float(logprobs[i, t]) for i, t in zip(at, one.token_ids, strict=True))
        assert one.logprob == pytest.approx(want, abs=1e-3)


def test_prefix_goes_on_as_the_whole_would(make: Callable[..., TransformersSampler]) -> None:
    """Greedily, what follows a forced prefix is what followed it in the whole response."""
    greedy = make(temperature=0.0)
    requests = [request(i, 1) for i in range(4)]
    whole = [samples[0] for samples in sample(greedy, *requests)]
    cuts = [min(1 + i, len(one.token_ids) - 1) for i, one in enumerate(whole)]
    forced = [
        replace(r, prefix_ids=one.token_ids[:cut], max_new_tokens=12 - cut)
        for r, one, cut in zip(requests, whole, cuts, strict=True)
    ]
    for one, cut, (rest,) in zip(whole, cuts, sample(greedy, *forced), strict=True):
        assert rest.token_ids == one.token_ids[cut:]
        assert rest.finish_reason == one.finish_reason


def test_prefix_log_probabilities_add_up(sampler: TransformersSampler) -> None:
    """A continuation's log-probability after a prefix is that of the whole less the prefix's."""
    asked = request(2, 1, prefix_ids=(70, 71, 260))
    rest = sample(sampler, asked)[0][0]
    prompt = sampler.prompts(asked.question, asked.images)
    ids = (*asked.prefix_ids, *rest.token_ids)
    with torch.no_grad():
        logprobs = sampler.model(**collate([prompt], [ids], 0)).logits[0].log_softmax(-1)
    at = range(len(prompt.ids) + 2, len(prompt.ids) + 2 + len(rest.token_ids))
    want = sum(float(logprobs[i, t]) for i, t in zip(at, rest.token_ids, strict=True))
    assert rest.logprob == pytest.approx(want, abs=1e-3)


def test_picture_tokens_are_impossible(make: Callable[..., TransformersSampler]) -> None:
    """However hot the sampling, no token that stands for a picture is ever drawn."""
    hot = make(temperature=50.0)
    ids = hot.tokenizer.convert_tokens_to_ids(
        [tiny.VISION_START, tiny.VISION_END, tiny.IMAGE, tiny.VIDEO]
    )
    assert hot.forbidden[ids].all()
    assert not hot.forbidden[hot.tokenizer.eos_token_id]
    drawn = Counter(
        token
        for samples in sample(hot, *(request(i, 24, 40) for i in range(4)))
        for one in samples
        for token in one.token_ids
    )
    assert sum(drawn.values()) > 1500
    assert not set(ids) & set(drawn)


def test_what_ends_a_response(sampler: TransformersSampler) -> None:
    """The end-of-turn token is kept and says "stop"; the limit says "length"; none goes on."""
    end = sampler.tokenizer.eos_token_id
    everything = [one for i in range(4) for one in sample(sampler, request(i, 16, 30))[0]]
    assert {one.finish_reason for one in everything} == {"stop", "length"}
    for one in everything:
        assert end not in one.token_ids[:-1]
        assert (one.token_ids[-1] == end) == (one.finish_reason == "stop")
        assert len(one.token_ids) == 30 or one.finish_reason == "stop"


def test_overlong_prompts_are_dropped(sampler: TransformersSampler) -> None:
    """A prompt without room for its response is dropped by name; its neighbours are sampled."""
    long = replace(request(1), question="red" * 300)
    first, dropped, last = sample(sampler, request(0), long, request(2))
    assert [one.finish_reason for one in dropped] == ["dropped"] * 3
    assert not any(one.token_ids for one in dropped)
    assert all(one.token_ids for one in (*first, *last))


def test_text_only_and_several_pictures(sampler: TransformersSampler) -> None:
    """Queries without pictures and with two are sampled as they are, alone or in one batch."""
    plain = replace(request(0), images=())
    two = replace(request(1), images=(tiny.picture(1), tiny.picture(2, 2)))
    together = sample(sampler, plain, two, request(2))
    alone = [sample(sampler, each)[0] for each in (plain, two, request(2))]
    for one, other in zip(itertools.chain(*together), itertools.chain(*alone), strict=True):
        assert one.token_ids == other.token_ids


def test_a_weight_that_is_missing_is_named(policy: Path, tmp_path: Path) -> None:
    """A checkpoint under other tensor names is refused, never filled with random numbers."""
    from safetensors.torch import load_file, save_file

    for path in policy.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("visual", "sight"): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SiError, match="do not match its model") as caught:
        adapter.load_model(tmp_path, "float32")
    assert "visual" in caught.value.detail


# --- the sampler: its distribution ----------------------------------------------------------


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    """Pearson's statistic over the values that can occur."""
    possible = shares > 0
    assert not counts[~possible].any()
    want = shares[possible] * counts.sum()
    return float(((counts[possible] - want) ** 2 / want).sum())


def test_noise_draws_from_the_softmax() -> None:
    """Over 20,000 seeds, logits plus noise have their maximum where the softmax says."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
    noise = GumbelNoise([keyed_seed("chi", i) for i in range(20_000)], 6)
    noise.next()
    drawn = (logits + noise.next()).argmax(-1)
    counts = np.bincount(drawn.numpy(), minlength=6)
    assert chi_square(counts, logits.softmax(-1).numpy()) < 20.5  # p = 0.001 at 5 degrees


def test_nucleus_draws_from_the_smallest_set() -> None:
    """Under top_p the draw is from the softmax of the smallest set of that mass, renormalised."""
    logits = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.25, 0.05]]))
    kept = nucleus(logits, 0.8)
    assert torch.isinf(kept).tolist() == [[True, False, False, False, True]]
    noise = GumbelNoise([keyed_seed("nucleus", i) for i in range(20_000)], 5)
    counts = np.bincount((kept + noise.next()).argmax(-1).numpy(), minlength=5)
    assert chi_square(counts, np.array([0, 0.4, 0.2, 0.25, 0]) / 0.85) < 13.8  # 2 degrees


def test_noise_depends_on_the_seed_alone() -> None:
    """A row of noise is the same whichever sequences are beside it, come or go."""
    crowd, alone = GumbelNoise([3, 4, 5], 271), GumbelNoise([5], 271)
    for step in range(20):
        rows = crowd.next()
        assert torch.equal(rows[-1], alone.next()[0])
        if step == 4:
            crowd.keep(torch.tensor([0, 2]))


def test_sampling_follows_the_models_distribution(sampler: TransformersSampler) -> None:
    """First tokens of 4,000 samples follow the model's softmax over the ids that are allowed."""
    seeds = tuple(keyed_seed("first", i) for i in range(4000))
    asked = replace(request(0), seeds=seeds, max_new_tokens=1)
    counts = np.bincount(
        [one.token_ids[0] for one in sample(sampler, asked)[0]], minlength=len(sampler.forbidden)
    )
    prompt = sampler.prompts(asked.question, asked.images)
    with torch.no_grad():
        logits = sampler.model(**collate([prompt], [()], 0)).logits[0, -1]
    shares = logits.masked_fill(sampler.forbidden, -torch.inf).double().softmax(-1).numpy()
    common = shares > 0.002  # five expected at least; the rest is one class
    pooled = np.append(counts[common], counts[~common].sum())
    degrees = len(pooled) - 1
    limit = degrees + 3.1 * np.sqrt(2 * degrees) + 5  # beyond p = 0.001
    assert chi_square(pooled, np.append(shares[common], shares[~common].sum())) < limit


# --- decoding -------------------------------------------------------------------------------


def check_ends(tokenizer: Any, ids: Sequence[int]) -> None:
    text, ends = decode(tokenizer, ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ends) == len(ids)
    assert ends == sorted(ends)
    for i, end in enumerate(ends):
        part = tokenizer.decode(ids[: i + 1], skip_special_tokens=True)
        assert text[:end] == part.rstrip("\ufffd") or "\ufffd" in part


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=30))
def test_ends_cover_whole_characters(sampler: TransformersSampler, text: str) -> None:
    """The characters covered by the first tokens are what these tokens say, in any alphabet."""
    ids = [*sampler.tokenizer(text).input_ids, sampler.tokenizer.eos_token_id]
    check_ends(sampler.tokenizer, ids)
    assert sampler.decode(ids)[1][-1:] == [len(text)]


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 264), max_size=30))
def test_any_token_ids_decode(sampler: TransformersSampler, ids: list[int]) -> None:
    """Whatever bytes a policy babbles, the text is the tokenizer's and the ends never go back."""
    check_ends(sampler.tokenizer, ids)


def test_a_character_counts_with_its_last_token(sampler: TransformersSampler) -> None:
    """A character of three tokens is covered when the third is there, and not before."""
    ids = sampler.tokenizer("a€b").input_ids
    assert sampler.decode(ids) == ("a€b", [1, 1, 1, 2, 3])


# --- the stage ------------------------------------------------------------------------------


class ScriptedSampler(Sampler):
    """A fake policy: it answers with the seed's last digits, letter by letter."""

    made = 0

    def __init__(self, policy: Path, base: Path, settings: Sampling, family: str = "auto"):
        type(self).made += 1
        assert (policy / "weights").read_text() == "policy"
        self.greedy = settings.temperature == 0
        self.calls: list[list[Request]] = []

    def sample(self, requests: Sequence[Request]) -> Iterator[list[Sampled]]:
        for asked in requests:
            if "long" in asked.question:
                yield [Sampled((), "dropped", 0.0)] * len(asked.seeds)
                continue
            assert asked.images == (asked.question.encode(),)
            digits = ["0" if self.greedy else str(seed)[-3:] for seed in asked.seeds]
            yield [
                Sampled(tuple(map(ord, text))[: asked.max_new_tokens], "stop", -1.5)
                for text in digits
            ]

    def decode(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        return "".join(map(chr, token_ids)), list(range(1, len(token_ids) + 1))


def commit(store: FolderStore, stage: str, *outputs: Output) -> Ref:
    spec = Spec(stage, "made", {}, {"n": 1}, {}, shards=len(outputs))
    announce(store, spec)
    for shard, output in enumerate(outputs):
        commit_shard(store, spec, shard, output)
    manifest = finish(store, spec)
    assert manifest is not None
    return manifest.ref


def dataset(store: FolderStore, names: Sequence[str]) -> Ref:
    rows = [
        {
            "query_id": name,
            "family": "f",
            "question": name,
            "answer": "1",
            "answer_kind": "text",
            "difficulty": 1,
            "rationale": None,
        }
        for name in names
    ]
    images = [{"query_id": name, "images": [name.encode()]} for name in names]
    tables = {
        "queries.parquet": pa.Table.from_pylist(rows, QUERIES),
        "images.parquet": pa.Table.from_pylist(images, IMAGES),
    }
    return commit(store, "synth", Output(tables, len(names), {"split": "train"}))


NAMES = ("q4", "q1", "q3 long", "q0", "q2")


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Makes explore jobs on five queries with the scripted sampler."""
    store = FolderStore(tmp_path / "store")
    data = dataset(store, NAMES)
    policy = commit(store, "fetch", Output({"weights": b"policy"}, 1))

    def make(draws: Sequence[Draw] | None = None, **params: Any) -> Job:
        inputs = {"data": data, "policy": policy, "base": policy}
        if draws is not None:
            rows = [
                {name: getattr(draw, name) for name in DRAWS.names if hasattr(draw, name)}
                for draw in draws
            ]
            table = pa.Table.from_pylist(rows, DRAWS)
            inputs["draws"] = commit(
                store, "resample", Output({"draws.parquet": table}, len(rows), {"of": "draws"})
            )
        spec = Spec(
            "explore",
            "test",
            {"seed": 5, "sampling": SAMPLING},
            {
                "iteration": 1,
                "round": 1,
                "k": 4,
                "select": [{"split": "train", "start": 0, "stop": 5}],
                "shard_queries": 2,
                "greedy": False,
                **params,
            },
            inputs,
        )
        return Job(store, spec, tmp_path / "scratch")

    return make


def rows_of(output: Output) -> list[dict[str, Any]]:
    table = output.files["rollouts.parquet"]
    assert isinstance(table, pa.Table)
    assert table.schema == ROLLOUTS
    return table.to_pylist()


def test_shards_follow_the_data_and_sort_within(job: Callable[..., Job]) -> None:
    """Queries go to shards in the data's order; rows within a shard are sorted by query."""
    do = explore(job())
    ids = [[row["query_id"] for row in rows_of(do(shard))] for shard in range(3)]
    assert ids == [["q1"] * 4 + ["q4"] * 4, ["q0"] * 4 + ["q3 long"] * 4, ["q2"] * 4]


def test_a_row_says_what_was_drawn(job: Callable[..., Job]) -> None:
    """Seeds are keyed by recipe seed, iteration, round, query, prefix and sample."""
    row = rows_of(explore(job())(0))[2]
    assert row["seed"] == keyed_seed(5, 1, 1, "q1", "", 2)
    assert row["text"] == str(row["seed"])[-3:]
    assert (row["round"], row["sample"], row["prefix_len"]) == (1, 2, 0)
    assert row["token_ends"] == [1, 2, 3]
    assert row["logprob"] == -1.5


def test_facts_count_and_name_what_was_dropped(job: Callable[..., Job]) -> None:
    """Dropped samples have no tokens and are counted."""
    output = explore(job())(1)
    assert output.facts == {"queries": 2, "samples": 8, "tokens": 12, "dropped": 4}
    dropped = [row for row in rows_of(output) if row["finish_reason"] == "dropped"]
    assert len(dropped) == 4
    assert not any(row["token_ids"] or row["text"] for row in dropped)


def test_shards_in_any_order_are_byte_equal(job: Callable[..., Job]) -> None:
    """A shard is the same bytes whichever shards this worker did before, and loads one engine."""
    made = ScriptedSampler.made
    forward, backward = explore(job()), explore(job())

    def content(do: Any, shard: int) -> bytes:
        return encode_table(do(shard).files["rollouts.parquet"])

    one = [content(forward, shard) for shard in (0, 1, 2)]
    other = [content(backward, shard) for shard in (2, 1, 0)]
    assert one == other[::-1]
    assert ScriptedSampler.made == made + 2


def test_draws_are_explored_in_query_order(job: Callable[..., Job]) -> None:
    """Draws are cut into shards by distinct query; prefixes are kept before what was sampled,
    and their length is taken off the token limit."""
    draws = [
        Draw("q2", 1),
        Draw("q0", 2, "p2", tuple(map(ord, "elevenchars")), "own"),
        Draw("q0", 1, "p1", (65,), "own"),
        Draw("q1", 3),
    ]
    do = explore(job(draws, round=2, k=0, select=[]))
    first = rows_of(do(0))
    assert [(r["query_id"], r["prefix_id"], r["sample"]) for r in first] == [
        ("q0", "p1", 0),
        ("q0", "p2", 0),
        ("q0", "p2", 1),
        ("q1", "", 0),
        ("q1", "", 1),
        ("q1", "", 2),
    ]
    assert first[0]["text"] == "A" + str(keyed_seed(5, 1, 2, "q0", "p1", 0))[-3:]
    assert first[1]["prefix_len"] == 11
    assert len(first[1]["token_ids"]) == 12
    assert [r["query_id"] for r in rows_of(do(1))] == ["q2"]
    assert do(0).facts["tokens"] == 3 + 1 + 1 + 9


def test_greedy_is_one_sample(job: Callable[..., Job]) -> None:
    """Greedy exploration asks for one sample a query, at temperature 0."""
    rows = rows_of(explore(job(greedy=True, k=4))(0))
    assert [(row["query_id"], row["text"]) for row in rows] == [("q1", "0"), ("q4", "0")]


@given(
    counts=st.lists(st.integers(1, 3), max_size=12),
    per_shard=st.integers(1, 5),
)
def test_every_draw_is_in_one_shard(counts: list[int], per_shard: int) -> None:
    """Shards are as many as promised, hold each draw once and never split a query."""
    draws = [
        Draw(f"q{query:02d}", 1, f"p{number}")
        for query, count in enumerate(counts)
        for number in range(count)
    ]
    shards = shard_draws(draws, per_shard)
    assert len(shards) == -(-len(counts) // per_shard)
    assert [draw for shard in shards for draw in shard] == draws
    assert all(len({draw.query_id for draw in shard}) <= per_shard for shard in shards)


def test_unknown_engines_are_named() -> None:
    """A recipe with an engine that does not exist stops with the known ones."""
    with pytest.raises(RecipeError, match="no engine 'vlllm'"):
        load("engine", "vlllm", {"transformers": "x:Y"})
    with pytest.raises(RecipeError, match="cannot be imported"):
        load("engine", "si.stages.explore:Nothing", {})


def test_the_stage_runs_on_the_tiny_model(
    job: Callable[..., Job], policy: Path, tmp_path: Path
) -> None:
    """With the transformers engine the stage gives the same bytes from two workers."""
    store = FolderStore(tmp_path / "real")
    names = ["q0", "q1", "q2"]
    rows = {"family": "f", "question": "red plus blue", "answer": "1", "answer_kind": "text"}
    queries = [{**rows, "query_id": n, "difficulty": 1, "rationale": None} for n in names]
    images = [{"query_id": n, "images": [tiny.picture(i)]} for i, n in enumerate(names)]
    tables = {
        "queries.parquet": pa.Table.from_pylist(queries, QUERIES),
        "images.parquet": pa.Table.from_pylist(images, IMAGES),
    }
    data = commit(store, "synth", Output(tables, 3, {"split": "train"}))
    files = {path.name: path for path in policy.iterdir()}
    base = commit(store, "fetch", Output(dict(files), 1))
    like = job()
    spec = replace(
        like.spec,
        settings={"seed": 5, "sampling": {**SAMPLING, "engine": "transformers"}},
        inputs={"data": data, "policy": base, "base": base},
    )
    workers = [explore(Job(store, spec, tmp_path / f"scratch{i}")) for i in range(2)]
    whole = [
        [encode_table(do(shard).files["rollouts.parquet"]) for shard in order]
        for do, order in zip(workers, ((0, 1), (1, 0)), strict=True)
    ]
    assert whole[0] == whole[1][::-1]
