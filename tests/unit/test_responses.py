"""Which responses a page shows, what it says of them, and the block that they are packed into."""

import base64
import io
import json
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import si.report.samples
from si.records import KEY
from si.report.sample_block import opening, pack
from si.report.samples import FIRST, GREEDY, GUIDED, Query, Response, Responses, gather
from si.store.artifact import Artifact
from si.store.folder import FolderStore
from si.store.keys import Ref
from tests.browser.made_up import make_run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return FolderStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def refs(store: FolderStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ref]:
    return make_run(store, tmp_path_factory.mktemp("scratch"), "gr+rp", 2, hostile=True)


def found(
    store: FolderStore, refs: Any, scratch: Path, samples: int = 10_000, **room: float
) -> Responses:
    room = {"text_mb": 2.0, "images_mb": 2.0} | room
    return gather(store, refs, scratch, 0, samples, **room)


def ids(shown: Responses) -> set[str]:
    return {query.query_id for query in shown.queries}


def rows(store: FolderStore, refs: Any, role: str, file: str) -> list[dict[str, Any]]:
    return Artifact.open(store, refs[role]).tables(file).to_pylist()


@pytest.mark.slow
def test_everything_is_shown_where_there_is_room(
    store: FolderStore, refs: Any, tmp_path: Path
) -> None:
    """A small run's page has every response of every exploration, with its verdict."""
    shown = found(store, refs, tmp_path)
    assert len(shown.responses) == shown.total
    assert len(shown.queries) == shown.total_queries
    told = Counter((r.t, r.how == GREEDY, r.correct) for r in shown.responses)
    for t in (1, 2):
        verdicts = [
            row["correct"]
            for role in (f"verify-{t}", f"verify2-{t}")
            for row in rows(store, refs, role, "verdicts.parquet")
        ]
        assert (told[t, False, True], told[t, False, False]) == (
            sum(verdicts),
            len(verdicts) - sum(verdicts),
        )


def test_text_is_what_was_sampled(store: FolderStore, refs: Any, tmp_path: Path) -> None:
    """Given and written text together are the stored response; guided ones have both."""
    shown = found(store, refs, tmp_path)
    stored = {
        tuple(row[name] for name in KEY): row
        for row in rows(store, refs, "explore2-2", "rollouts.parquet")
    }
    seen = 0
    for response in shown.responses:
        if response.t != 2 or response.how in (GREEDY, si.report.samples.FIRST):
            continue
        query = shown.queries[response.query].query_id
        row = stored[query, 2, response.prefix_id, response.sample]
        assert response.given + response.text == row["text"]
        assert bool(response.given) == (response.how == GUIDED) == bool(row["prefix_len"])
        seen += 1
    assert seen == len(stored)


def test_copies_are_those_of_the_examples(store: FolderStore, refs: Any, tmp_path: Path) -> None:
    """Each response says how often it is an example of its own iteration."""
    shown = found(store, refs, tmp_path)
    for t in (1, 2):
        examples = Counter(
            row["query_id"] for row in rows(store, refs, f"examples-{t}", "examples.parquet")
        )
        told: Counter[str] = Counter()
        for response in shown.responses:
            if response.t == t and response.how != GREEDY:
                told[shown.queries[response.query].query_id] += response.copies
        assert +told == examples
    assert not any(r.copies for r in shown.responses if r.how == GREEDY)


@pytest.mark.parametrize("samples", [40, 150, 400])
def test_a_query_is_shown_whole_or_not(
    store: FolderStore, refs: Any, tmp_path: Path, samples: int
) -> None:
    """Too many responses: no more than asked, all those of a chosen query, of every level."""
    whole, part = found(store, refs, tmp_path / "a"), found(store, refs, tmp_path / "b", samples)
    assert 0.5 * samples < len(part.responses) <= samples
    assert part.total == whole.total and part.total_queries == whole.total_queries
    counts = Counter(whole.queries[r.query].query_id for r in whole.responses)
    for query, n in Counter(part.queries[r.query].query_id for r in part.responses).items():
        assert counts[query] == n
    if samples >= 150:
        assert {q.level for q in part.queries} == {q.level for q in whole.queries}


def test_the_choice_is_the_querys_own(store: FolderStore, refs: Any, tmp_path: Path) -> None:
    """The same every time; more room adds queries and takes nearly none away; another seed chooses
    others."""
    small = found(store, refs, tmp_path / "a", 150)
    assert small == found(store, refs, tmp_path / "b", 150)
    large = found(store, refs, tmp_path / "c", 300)
    assert len(ids(small) - ids(large)) <= 1
    other = gather(store, refs, tmp_path / "d", 1, 150, 2.0, 2.0)
    assert ids(other) != ids(small)


def test_text_and_images_keep_to_their_room(store: FolderStore, refs: Any, tmp_path: Path) -> None:
    """The block stays within the megabytes that it may have; images left out are counted."""
    whole = found(store, refs, tmp_path / "a")
    tight = found(store, refs, tmp_path / "b", text_mb=0.01, images_mb=0.01)
    assert 0 < len(tight.queries) < len(whole.queries)
    assert sum(map(len, tight.images)) <= 10_000 < sum(map(len, whole.images))
    assert len(pack(tight._replace(images=[]))) < 30_000
    assert sum(q.images_left_out for q in tight.queries) > 0
    none = found(store, refs, tmp_path / "c", images_mb=0)
    assert none.images == [] and not any(q.images for q in none.queries)


def test_of_large_data_some_parts_are_read(
    store: FolderStore, refs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the images are too many to read, queries are chosen from some parts of the data, of
    each split at least one."""
    whole = found(store, refs, tmp_path / "a")
    monkeypatch.setattr(si.report.samples, "READ", 1)
    some = found(store, refs, tmp_path / "b")
    assert {q.split for q in some.queries} == {q.split for q in whole.queries}
    assert some.total == whole.total


def test_equal_images_lie_there_once(store: FolderStore, refs: Any, tmp_path: Path) -> None:
    """Images are shared among queries, and what is no picture is none."""
    shown = found(store, refs, tmp_path)
    assert len(shown.images) == len(set(shown.images))
    used = {place for query in shown.queries for place in query.images}
    assert used == set(range(len(shown.images)))
    assert any(query.images_left_out for query in shown.queries)  # the hostile SVGs
    for uri in shown.images:
        Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).verify()


def test_the_block_cannot_be_left(store: FolderStore, refs: Any, tmp_path: Path) -> None:
    """Whatever was sampled, the block is base64; inside, it is what was gathered."""
    shown = found(store, refs, tmp_path)
    nasty = "</script><!--\u2028\u2029\ud800\x00"
    responses = [shown.responses[0]._replace(text=nasty, extracted=nasty)]
    block = pack(shown._replace(responses=responses))
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", block)
    inside = json.loads(zlib.decompress(base64.b64decode(block)))
    assert inside["responses"]["text"] == [nasty]
    assert inside["queries"]["question"] == [query.question for query in shown.queries]


def test_long_texts_are_cut_and_counted(
    store: FolderStore, refs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response longer than a page shows says how much is missing."""
    monkeypatch.setattr(si.report.samples, "LONGEST", 20)
    shown = found(store, refs, tmp_path)
    whole = {len(row["text"]) for row in rows(store, refs, "explore-1", "rollouts.parquet")}
    lengths = {len(r.given) + len(r.text) + r.more for r in shown.responses if r.t == 1}
    assert whole <= lengths
    assert max(len(r.given) + len(r.text) for r in shown.responses) == 20


def made(levels: str, *rows: tuple[int, str, bool, int]) -> Responses:
    """Responses of iteration 1: (query, how, correct, given tokens)."""
    queries = [Query(str(i), "train", "f", v, 1, "q", "a", [], 0) for i, v in enumerate(levels)]
    responses = [
        Response(query, 1, how, "", 0, "", "", 0, correct, "a", "exact", "stop", 9, given, 0)
        for query, how, correct, given in rows
    ]
    return Responses(queries, responses, [], len(responses), len(queries))


def test_the_browser_opens_where_a_prefix_made_the_difference() -> None:
    """Of correct guided responses to tail queries, the one whose query the first round solved
    least; none without such a response."""
    shown = made(
        "1UU",
        *((0, FIRST, False, 0), (0, GUIDED, True, 2)),
        *((1, FIRST, True, 0), (1, FIRST, False, 0), (1, GUIDED, True, 2)),
        *((2, FIRST, False, 0), (2, FIRST, False, 0), (2, GUIDED, False, 1)),
        *((2, GUIDED, True, 4), (2, GUIDED, True, 3)),
    )
    assert opening(shown) == 9
    assert opening(made("U", (0, FIRST, True, 0), (0, GUIDED, False, 2))) is None
    assert opening(made("1", (0, GUIDED, True, 2))) is None
