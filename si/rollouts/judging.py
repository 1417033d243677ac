"""Judge files of rollouts on the spot, so that they can be diagnosed without a reward of their own.

Each file is judged as `si-ctl verify` does with its defaults, into a copy in a scratch folder; the
verdict is the copy's reward.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from si.errors import DataError
from si.events import Event
from si.report.tables import percent
from si.rollouts.judged import Judged
from si.rollouts.known_tools import FIELDS
from si.rollouts.verify import FIELDS as JUDGED
from si.rollouts.verify import judge_file, keeps_columns

REWARD = "verdict_correct"  # the column of `si.rollouts.verify.VERDICT` that is the reward


def judge_files(
    files: Sequence[tuple[str, Path]],
    found: Collection[str],
    mapping: Mapping[str, str],
    scratch: Path,
    *,
    skip_bad: bool = False,
    encoding: str = "",
    on_event: Callable[[Event], None] = lambda _: None,
) -> tuple[list[tuple[str, Path]], list[str]]:
    """Judge the responses of files against their reference answers.

    Args:
        files: (name, path) of each.
        found: names of files that were found in a folder. Those without responses and references
            are left out, unless no file has them.
        mapping: field -> column or path, of the fields of `diagnose` and of `verify`.
        scratch: a folder for the copies.
        skip_bad, encoding, on_event: as `si.rollouts.verify.judge_file` takes them.

    Returns:
        (name, copy) of each file, and notes for the user.

    Raises:
        DataError: if a file cannot be judged.
    """
    known = {name: path for name, path in mapping.items() if name in JUDGED and name != "reward"}
    made: list[tuple[str, Path]] = []
    notes: list[str] = []
    refused: DataError | None = None
    for number, (name, path) in enumerate(files):
        copy = scratch / str(number) / f"judged{'.parquet' if keeps_columns(path) else '.jsonl'}"
        copy.parent.mkdir(parents=True)
        try:
            judged = judge_file(
                path, known, copy, skip_bad=skip_bad, encoding=encoding, on_event=on_event
            )
        except DataError as error:
            if name not in found:
                raise
            refused = refused or error
            continue
        made.append((name, copy))
        notes += _notes(name, judged)
    if not made and refused:
        raise refused
    return made, notes


def rollout_fields(mapping: Mapping[str, str]) -> dict[str, str]:
    """What a mapping says about the copies: the fields of rollouts, and the verdict as the reward.

    Raises:
        DataError: if it maps a field that neither rollouts nor the judge know, or a reward.
    """
    for name in mapping:
        if name == "reward" or name not in (*FIELDS, *JUDGED):
            raise DataError(
                f"--verify has no field {name!r} to map",
                "fields: " + ", ".join(dict.fromkeys((*FIELDS, *JUDGED))).replace(", reward", ""),
            )
    kept = {name: path for name, path in mapping.items() if name in FIELDS}
    return kept | {"reward": REWARD}


def _notes(name: str, judged: Judged) -> Iterator[str]:
    answer = judged.columns["answer"]
    yield (
        f"{name}: responses were judged against {answer}, {judged.right:,} of "
        f"{judged.responses:,} are correct ({percent(judged.accuracy)})."
    )
    if judged.disagreement and any(judged.disagreement):
        there, here = judged.disagreement
        own = judged.columns["reward"]
        yield f"Its own {own} differs: {there:,} correct there only, {here:,} here only."
    if judged.unread:
        yield from judged.unread.lines()
