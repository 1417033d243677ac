"""Which samples belong to one query: by its id, else by what it asks and shows.

Different questions often have the same words (`Find x.`), so words alone are not enough: the images
and the reference answer are part of what identifies a query, and a column of ids is used where it
separates queries that these do not. What cannot be decided is reported, never passed over.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from si.metrics import Array
from si.readers.aliases import look_up
from si.report.tables import number, percent
from si.rollouts.known_tools import IDS
from si.rollouts.table import Groups, Rollouts

ENOUGH = 2  # samples of a query by which an id that repeats is recognised


def derived_ids(parts: Sequence[pa.Array]) -> pa.Array:
    """Ids of queries: the first 16 hex digits of SHA-256 over what identifies them.

    Args:
        parts: the prompt, and the reference answer and images if there are any; [samples] each.
            An id is null where the prompt is.
    """
    whole = parts[0]
    for part in parts[1:]:
        whole = pc.binary_join_element_wise(whole, pc.fill_null(part, ""), "\0")
    found = whole.dictionary_encode()
    texts = found.dictionary.to_pylist()
    ids = [hashlib.sha256(t.encode("utf-8", "replace")).hexdigest()[:16] for t in texts]
    return pa.array(ids, pa.string()).take(found.indices)


def image_digests(images: pa.Array) -> pa.Array:
    """A text per sample that is equal for equal images: of bytes their digest, else the paths.

    Args:
        images: lists of {bytes, path}.
    """
    known: dict[bytes, str] = {}

    def text(image: dict[str, Any]) -> str:
        data = image["bytes"]
        if not data:
            return str(image["path"])
        if data not in known:
            known[data] = hashlib.sha256(data).hexdigest()
        return known[data]

    return pa.array(
        ["\1".join(map(text, each)) if each else "" for each in images.to_pylist()], pa.string()
    )


def candidates(names: Sequence[str], rows: Sequence[Any], prompt: str) -> list[str]:
    """Columns that may hold ids of queries: no id of the first rows has two prompts.

    Args:
        names: the columns of a file.
        rows: its first rows.
        prompt: the column, or path into one, with the prompt.
    """
    found = []
    for name in (name for name in names if name.lower() in IDS):
        prompts: dict[str, str] = {}
        values = [(look_up(row, name), str(look_up(row, prompt))) for row in rows]
        plain = all(isinstance(value, str | int) for value, _ in values)
        if plain and all(prompts.setdefault(str(v), text) == text for v, text in values):
            found.append(name)
    return found


def is_finer(pairs: Iterator[tuple[Array, pa.Array, pa.Array]]) -> bool:
    """Whether ids separate queries that prompts do not, and never split the samples of one.

    An id identifies a query if all samples with it have the same prompt, and if most samples share
    their id with another one of their step: otherwise it may only number the rows.

    Args:
        pairs: batches of steps, ids by prompt, and ids to judge; [samples] each.
    """
    by_prompt: dict[str, int] = {}
    by_id: dict[str, int] = {}
    prompt_of: dict[int, int] = {}
    sizes: dict[tuple[int, int], int] = {}
    for steps, prompts, ids in pairs:
        if ids.null_count or len(ids) != len(prompts):
            return False
        for step, text, name in zip(
            steps.tolist(), prompts.to_pylist(), ids.to_pylist(), strict=True
        ):
            prompt = by_prompt.setdefault(text, len(by_prompt))
            code = by_id.setdefault(name, len(by_id))
            if prompt_of.setdefault(code, prompt) != prompt:
                return False
            sizes[step, code] = sizes.get((step, code), 0) + 1
    shared = sum(size for size in sizes.values() if size >= ENOUGH)
    return len(by_id) > len(by_prompt) and 2 * shared > sum(sizes.values())


# --- warnings --------------------------------------------------------------------------------


def merged_queries(rollouts: Rollouts, groups: Groups) -> str:
    """A warning if several queries seem to be counted as one; empty if none do.

    Two signs are looked for: groups with a multiple of the usual number of samples, and groups
    whose samples lie in separate runs of one length.
    """
    columns = rollouts.source.layout.columns
    sign = _multiples(groups, "query_id" in columns) or _separate_runs(groups)
    if not sign:
        return ""
    why = "Different questions with the same words may be counted as one"
    if "step" not in columns:
        why += ", or samples of several steps as one step"
    named = "Check the column of ids" if "query_id" in columns else "Name a column of ids"
    return f"{sign} {why}. {named}: --map query_id=COLUMN."


def _multiples(groups: Groups, has_ids: bool) -> str:
    usual = groups.k
    large = (groups.n > usual) & (groups.n % usual == 0)
    count = int(large.sum())
    if not count or (usual < ENOUGH and has_ids):
        return ""
    most = int(groups.n[large].max()) // usual
    often = "twice" if most == 2 else f"2 to {most} times"
    return (
        f"{number(count)} of {number(len(groups.n))} groups of samples ({percent(large.mean())}) "
        f"have {often} the usual {usual} samples."
    )


def _separate_runs(groups: Groups) -> str:
    """A sign that the samples of a group were written as several runs of one length."""
    order = groups.group_of
    starts = np.flatnonzero(np.r_[True, order[1:] != order[:-1]])
    lengths = np.diff(np.r_[starts, len(order)])
    which = order[starts]
    runs = np.bincount(which, minlength=len(groups.n))
    least, most = np.full(len(groups.n), len(order)), np.zeros(len(groups.n), np.int64)
    np.minimum.at(least, which, lengths)
    np.maximum.at(most, which, lengths)
    several = (runs > 1) & (least == most) & (least >= ENOUGH)
    count = int(several.sum())
    if 2 * count <= len(groups.n):
        return ""
    one = int(np.flatnonzero(several)[0])
    return (
        f"The {groups.n[one]} samples of a query lie in {runs[one]} separate runs of {least[one]}, "
        f"and so for {number(count)} of {number(len(groups.n))} groups of samples."
    )
