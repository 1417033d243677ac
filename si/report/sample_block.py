"""The sample browser's data as one block in a page, and the few responses that need no script."""

import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from si.randomness import keyed_rng
from si.records import LEVELS, TAIL
from si.report.samples import FIRST, GUIDED, HELD_OUT, Query, Response, Responses

# --- for the page --------------------------------------------------------------------------


def few(found: Responses, t: int, seed: int) -> list[tuple[Query, Response]]:
    """One correct and one incorrect response of iteration t per level, and two guided ones."""
    groups: dict[tuple[str, bool], list[Response]] = defaultdict(list)
    for response in found.responses:
        if response.t == t and response.how not in HELD_OUT:
            level = found.queries[response.query].level
            group = GUIDED if response.how == GUIDED else level
            groups[group, response.correct].append(response)
    picked = []
    for group in (*LEVELS, GUIDED):
        for correct in (True, False):
            some = groups[group, correct]
            if some:
                rng = keyed_rng("report", seed, t, group, int(correct))
                response = some[int(rng.random() * len(some))]
                picked.append((found.queries[response.query], response))
    return picked


def opening(found: Responses) -> int | None:
    """The response that the browser opens on: a correct guided one to the tail query that the first
    round of its iteration solved least, the shortest prefix first; None without any."""
    solved: dict[tuple[int, int], list[bool]] = defaultdict(list)
    for response in found.responses:
        if response.how == FIRST:
            solved[response.query, response.t].append(response.correct)

    def rank(i: int) -> tuple[float, int, int]:
        response = found.responses[i]
        first = solved[response.query, response.t]
        return sum(first) / max(1, len(first)), response.tokens_given, i

    made = [
        i
        for i, response in enumerate(found.responses)
        if response.how == GUIDED
        and response.correct
        and found.queries[response.query].level in TAIL
    ]
    return min(made, key=rank, default=None)


def pack(found: Responses) -> str:
    """The block: an object with the columns of `queries` and `responses`, the list `images`, and
    which response is shown first."""
    block = {
        "levels": LEVELS,
        "opening": opening(found),
        "images": found.images,
        "queries": _columns(Query, found.queries),
        "responses": _columns(Response, found.responses),
    }
    text = json.dumps(block, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _columns(kind: Any, rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(kind._fields)}
