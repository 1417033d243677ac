"""What `import si` offers: diagnose and rebalance your rollouts, in one call each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from si.config.loading import load
from si.errors import RecipeError, RunMissing
from si.events import Event
from si.readers.reading import check_encoding
from si.rollouts.diagnose import diagnose as diagnosed
from si.rollouts.diagnosis import Diagnosis
from si.rollouts.files import FileSource, Judging
from si.rollouts.judging import judge_files
from si.rollouts.rebalance import Rebalanced
from si.rollouts.rebalance import rebalance as rebalanced
from si.rollouts.table import Rollouts, RunSource, read, with_levels
from si.rollouts.training_images import ImageIndex
from si.runs.status import find_run, report_inputs
from si.store.keys import Spec
from si.store.open import open_store
from si.store.port import Store


def diagnose(
    source: Any,
    *,
    map: Mapping[str, str] | None = None,
    threshold: float | None = None,
    k: int | None = None,
    skip_bad: bool = False,
    encoding: str = "",
    store: str | None = None,
    verify: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Diagnosis:
    """How imbalanced training on these rollouts would be, and what each strategy would change.

        found = si.diagnose("rollouts/")
        print(dict(found.words)["Matthew effect"])
        found.figures["successes"]["share_by_level"]["L1"]   # a share, 0 to 1

    Args:
        source: a file (JSONL, JSON, Parquet), several, or a folder; rows (mappings, one per
            sample); a pyarrow or polars table, a pandas DataFrame; the name of an si-ctl run, or
            the folder of one of its verify artefacts.
        map: maps fields to columns and overrides recognition: `{"query_id": "uid"}`. Fields are
            query_id, prompt, response, messages, reward, step, tokens, images; values are columns
            or paths into them (`"extra.uid"`).
        threshold: reward threshold, the lowest reward of a correct response. Default: the higher
            one of exactly two rewards; 1 if there are more and some reach it.
        k: samples per query, as the strategies count them. Default: the most common number.
        skip_bad: leave out unusable rows instead of raising; they are listed in
            `figures["source"]["skipped_rows"]`.
        encoding: of texts that are not UTF-8: `latin-1`.
        store: where a run lies; a folder or `s3://bucket/prefix`.
        verify: judge the responses of files against their reference answers, and take the verdicts
            as rewards. `map` may then name response, answer, answer_kind and choices.
        on_event: receives how many rows are judged, as `done` of `total`.

    Returns:
        `figures` (JSON-serialisable; shares and rates from 0 to 1, lengths in
        `figures["length_unit"]`, None for what does not exist; docs/diagnose.md), `words`
        (heading, sentences), `tables`, `page()` (self-contained HTML).

    Raises:
        si.errors.DataError: if the columns are not recognised, rows are bad, or the reward
            threshold is unclear; its text names file, row and field, and what to do.
        si.errors.RunMissing: if there is neither a file nor a run of that name.

    Sources: strategies and shares by level arXiv 2510.26474; unbiased pass@k Chen et al. 2021
    (arXiv 2107.03374); Gini coefficient and entropy as in docs/method.md.
    """
    judge = _judging(verify, skip_bad, encoding, on_event)
    return diagnosed(rollouts(source, map, skip_bad, store, encoding, judge), threshold, k)


def rebalance(
    source: Any,
    strategy: str = "rp",
    out: str | Path | None = None,
    *,
    format: str = "trl",
    seed: int = 0,
    map: Mapping[str, str] | None = None,
    threshold: float | None = None,
    k: int | None = None,
    skip_bad: bool = False,
    force: bool = False,
    data: str | None = None,
    copy_images: bool = False,
    encoding: str = "",
    store: str | None = None,
    verify: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Rebalanced:
    """A strategy's training rows for these rollouts, or the draws that it asks for.

        si.rebalance("rollouts.jsonl", "rp", out="train.jsonl")
        si.rebalance(rows, "gr").table               # query_id, n, prefix ...

    Args:
        source, map, threshold, k, skip_bad, encoding, store, verify, on_event: as in `diagnose`.
        strategy: vanilla, tc or rp give examples; ar, gr and compositions such as gr+tc give
            draws to sample.
        out: the file to write, completely or not at all; its suffix selects JSONL, JSON or
            Parquet. Without it the rows are returned as a table.
        format: trl, sharegpt (LLaMA-Factory), verl, swift, or jsonl. Draws are plain rows in every
            format.
        seed: random seed. Equal arguments give equal bytes.
        force: replace an existing file.
        data: takes images from the data that were sampled from, a file, a folder, or the address
            of a data set in the store; matched by id, by number, or by question and answer.
        copy_images: copy the images that are files into a folder beside `out`.

    Returns:
        `kind` (examples or draws), `rows`, `samples` (requested by draws), `successes`,
        `queries`, `path` or `table`, `notes`.

    Raises:
        si.errors.DataError: as `diagnose`; if `out` exists; if there is nothing to write.
        si.errors.RecipeError: for an unknown strategy or format, or an `out` that does not fit it.

    Source: the strategies of arXiv 2510.26474, as in docs/method.md.
    """
    judge = _judging(verify, skip_bad, encoding, on_event)
    given = rollouts(source, map, skip_bad, store, encoding, judge)
    path = None if out is None else Path(out)
    index = None if data is None else ImageIndex.open(data, _store(store))
    return rebalanced(
        given,
        *(strategy, format, path, seed, threshold, k, force),
        data=index,
        copy_images=copy_images,
    )


def rollouts(
    source: Any,
    mapping: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    store: str | None = None,
    encoding: str = "",
    judge: Judging | None = None,
) -> Rollouts:
    """Rollouts as numeric columns; for the arguments and errors see `diagnose`.

    Args:
        judge: judges files, as `FileSource.of_paths` takes it.
    """
    if isinstance(source, str | Path):
        source = [source]
    if not isinstance(source, pa.Table) and hasattr(source, "to_arrow"):
        source = source.to_arrow()
    elif type(source).__module__.startswith("pandas"):
        source = pa.Table.from_pandas(source, preserve_index=False)
    if isinstance(source, pa.Table):
        _refuse_judging(judge, "A table in memory")
        return read(FileSource([("the table", source)], mapping), skip_bad)
    parts = list(source) if isinstance(source, Iterable) else [source]
    if not parts or isinstance(parts[0], Mapping):
        _refuse_judging(judge, "Rows in memory")
        return read(FileSource([("the rows", parts)] if parts else [], mapping), skip_bad)
    return _from_paths(parts, mapping, skip_bad, store, encoding, judge)


def _judging(
    wanted: bool, skip_bad: bool, encoding: str, on_event: Callable[[Event], None]
) -> Judging | None:
    """What judges files before they are read, if that is wanted."""
    if not wanted:
        return None
    encoding = check_encoding(encoding)
    return partial(judge_files, skip_bad=skip_bad, encoding=encoding, on_event=on_event)


def _refuse_judging(judge: Judging | None, what: str) -> None:
    if judge is not None:
        raise RecipeError(f"{what} cannot be judged on the spot", "", "Omit --verify.")


def _from_paths(
    sources: Sequence[str | Path],
    mapping: Mapping[str, str] | None,
    skip_bad: bool,
    store: str | None,
    encoding: str,
    judge: Judging | None,
) -> Rollouts:
    """Rollouts of files and folders, of one verify artefact, or of the run with that name."""
    paths = [Path(source) for source in sources]
    if len(paths) == 1:
        if (paths[0] / "spec.json").exists() and (paths[0] / "manifest.json").exists():
            _refuse_judging(judge, "An artefact of verdicts")
            return _from_artifact(paths[0].resolve())
        if not paths[0].exists() and not paths[0].suffix and len(paths[0].parts) == 1:
            _refuse_judging(judge, "A run, which has verdicts,")
            return _from_run(_store(store), str(sources[0]))
    return read(FileSource.of_paths(paths, mapping, check_encoding(encoding), judge), skip_bad)


def _store(store: str | None) -> Store:
    """The store at an address; the one of the environment settings if None."""
    return open_store(load(None, {} if store is None else {"place.store": store})[1])


def _from_run(store: Store, name: str) -> Rollouts:
    """A run's first rounds, with the levels that its metrics use."""
    try:
        run = find_run(store, name)
    except RunMissing as error:
        ways = ("Name a file, a folder, or a run: si-ctl status", *error.ways_out)
        raise RunMissing(
            f"{error.headline}, nor is there such a file", error.detail, ways
        ) from error
    refs = report_inputs(store, run)
    rounds = {int(r.rpartition("-")[2]): ref for r, ref in refs.items() if r.startswith("verify-")}
    source = RunSource(store, f"run {run}", sorted(rounds.items()))
    found = replace(read(source), k=source.k)
    examples = [ref for role, ref in refs.items() if role.startswith("examples-")]
    known = {f"examples-{t}" for t in rounds} <= refs.keys()
    return with_levels(found, examples, store) if known else found


def _from_artifact(folder: Path) -> Rollouts:
    """One verify artefact in `<store>/pool/verify/`; its levels come from its own samples."""
    store = _store(str(folder.parents[2]))
    address = folder.relative_to(folder.parents[2]).as_posix()
    spec = Spec.load(store, address)
    sampled = spec.inputs.get("rollouts")
    t = Spec.load(store, sampled.address).params["iteration"] if sampled else 0
    source = RunSource(store, address, [(t, address)])
    return replace(read(source), k=source.k or None)
