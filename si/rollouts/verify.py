"""Anybody's answers, judged as the verify stage judges: a file of responses and references.

Rows are read, judged and written a piece at a time. What a file's columns are is told from their
names, as `diagnose` does, or from the user's word.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from si.errors import DataError
from si.events import Event
from si.machine.files import check
from si.plugins import load
from si.readers.aliases import look_up, root
from si.readers.files import open_parquet
from si.report.intervals import Interval, wilson
from si.rollouts.chunks import BROKEN, Row, file_suffix, first_rows, json_objects
from si.rollouts.known_tools import ALIASES, ANSWERS, LAYOUTS
from si.rollouts.layouts import write
from si.rollouts.messages import as_number, as_text, message_text, prompt_and_response
from si.rollouts.table import Bad, refusal
from si.stages.verify import Judgement, MathPool, judge_all, own_judge, said

FIELDS = ("response", "messages", "answer", "answer_kind", "finish_reason", "reward")
KINDS = ("number", "choice", "text")
PIECE = 2000  # rows judged at a time
VERDICT = {
    "verdict_correct": pa.bool_(),
    "verdict_extracted": pa.string(),
    "verdict_method": pa.string(),
}


@dataclass
class Judged:
    """What the answers of a file came to.

    Attributes:
        columns: field -> column, or path into one, where it was read.
        rows: those that were judged; responses: the same, unless rows hold several.
        methods: how verdicts were reached -> how many of them.
        bad: rows that could not be judged.
        against: (the file's own reward, our verdict) -> how many responses.
    """

    file: str
    columns: Mapping[str, str]
    rows: int = 0
    responses: int = 0
    right: int = 0
    methods: Counter[str] = field(default_factory=Counter)
    bad: list[Bad] = field(default_factory=list)
    against: Counter[tuple[float, bool]] = field(default_factory=Counter)

    @property
    def accuracy(self) -> float:
        return self.right / self.responses if self.responses else 0.0

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.right, self.responses)

    @property
    def disagreement(self) -> tuple[int, int] | None:
        """Responses that only the file's own reward, and that only our verdict calls right; None if
        it has no reward of two values, of which the higher one is right."""
        rewards = {reward for reward, _ in self.against}
        if not 0 < len(rewards) <= 2 or (len(rewards) == 1 and not rewards & {0.0, 1.0}):
            return None
        right = max(*rewards, 1.0) if len(rewards) == 1 else max(rewards)
        theirs = sum(
            n for (reward, ours), n in self.against.items() if reward == right and not ours
        )
        only = sum(n for (reward, ours), n in self.against.items() if reward != right and ours)
        return theirs, only

    def to_json(self) -> dict[str, Any]:
        differ = self.disagreement
        return {
            "file": self.file,
            "columns": dict(self.columns),
            "rows": self.rows,
            "responses": self.responses,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": self.interval,
            "methods": dict(sorted(self.methods.items())),
            "skipped": len(self.bad),
            "skipped_rows": [one._asdict() for one in self.bad[:100]],
            "own_reward": differ and {"right_there_only": differ[0], "right_here_only": differ[1]},
        }


def judge_file(
    path: Path,
    mapping: Mapping[str, str] | None = None,
    out: Path | None = None,
    *,
    judge: str = "answers",
    timeout: float = 5.0,
    skip_bad: bool = False,
    force: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Judged:
    """Judge all responses of a JSONL, JSON or Parquet file.

    Args:
        mapping: field -> column or path: response (or messages, whose last one it is), answer;
            answer_kind, finish_reason and reward if there are any.
        out: a file of the same kind to write, whole or not at all: all rows and columns, and
            `verdict_correct`, `verdict_extracted`, `verdict_method`.
        judge: `answers`, or `package.module:function` as a recipe's `verify.judge`.
        timeout: processor seconds that math-verify may take for one answer.
        skip_bad: leave out rows without a response or a reference instead of refusing; in `out`
            their verdicts are null.
        on_event: hears how many rows are `done` of the `total`, if that can be known.

    Raises:
        DataError: if the columns do not tell what is what, rows are bad, or `out` does not fit.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}", f"looked in {path.absolute().parent}")
    kind = file_suffix(path)
    if not kind:
        raise DataError(f"{path} is neither JSON lines, JSON nor Parquet, by its name")
    if out is not None:
        if (out.suffix == ".parquet") != (kind == ".parquet") or out.suffix not in _WRITTEN:
            raise DataError(
                f"{out} cannot be written from {path.name}",
                "",
                f"Name a file as {'x.parquet' if kind == '.parquet' else 'x.jsonl'}: --out",
            )
        check(out, force)
    names, rows = first_rows(str(path), path)
    columns = understand(names, rows, mapping or {}, str(path))
    made = Judged(str(path), columns)
    own = None if judge == "answers" else load("judge", judge, {})
    with MathPool(timeout) as pool:
        work = _Work(made, pool, own, skip_bad)
        wanted = None if out else sorted({root(where, names) for where in columns.values()})
        judged = work.judged(_pieces(path, kind, wanted, made.bad), _count(path, kind), on_event)
        if out is None:
            for _ in judged:
                pass
        else:
            several = any(_several(look_up(row, columns.get("response", ""))) for row in rows)
            write(judged, partial(_schema, path, kind, several), out, force)
    return made


_WRITTEN = (".jsonl", ".json", ".parquet")


def understand(
    names: Sequence[str], rows: Sequence[Row], mapping: Mapping[str, str], file: str
) -> dict[str, str]:
    """Field -> column, or path into one.

    Raises:
        DataError: if there is no response or no reference, with the columns there are.
    """
    for wanted, path in mapping.items():
        if wanted not in FIELDS:
            raise DataError(f"There is no field {wanted!r} to map", "fields: " + ", ".join(FIELDS))
        if root(path, names) not in names:
            raise DataError(
                f"{file} has no column {path!r}, which {wanted} is mapped to",
                f"columns: {', '.join(names)}",
            )
    known = next((one for one in LAYOUTS if one.needs and one.needs <= set(names)), None)
    found = {
        what: path
        for what, path in (known.columns.items() if known else ())
        if what in ("response", "messages", "reward") and path.split(".")[0] in names
    }
    if known and known.answer in names:
        found["answer"] = str(known.answer)
    if "messages" in mapping:
        found.pop("response", None)
    found |= mapping
    taken = set(found.values())
    lower = {name.lower(): name for name in reversed(names)}

    def named(what: str, aliases: Sequence[str]) -> None:
        free = (lower[a] for a in aliases if a in lower and lower[a] not in taken)
        if what not in found and (name := next(free, None)):
            found[what] = name
            taken.add(name)

    if "messages" not in found:
        named("response", ALIASES["response"])
    if "response" not in found:
        named("messages", ALIASES["messages"])
    named("answer", ANSWERS)
    named("answer_kind", ("answer_kind",))
    named("finish_reason", ("finish_reason",))
    if not (known and known.only):  # whose scores are not about the response alone
        named("reward", ALIASES["reward"])
    missing = [] if {"response", "messages"} & found.keys() else ["a response (response)"]
    missing += [] if "answer" in found else ["the reference answer (answer)"]
    if missing:
        raise DataError(
            f"{file} cannot be understood",
            f"columns found: {', '.join(names) or 'none'}\nmissing: {' and '.join(missing)}",
            "Say what is what: --map response=COLUMN,answer=COLUMN",
        )
    return found


def _several(value: Any) -> bool:
    """Whether a row's response is a list of them."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _pieces(
    path: Path, kind: str, columns: Sequence[str] | None, bad: list[Bad]
) -> Iterator[list[Row]]:
    if kind == ".parquet":
        with open_parquet(path) as file:
            for batch in file.iter_batches(PIECE, columns=columns):
                yield batch.to_pylist()
        return
    rows = iter(json_objects(str(path), path, bad))
    while piece := list(islice(rows, PIECE)):
        yield piece


def _count(path: Path, kind: str) -> int | None:
    """How many rows the file has, if looking is cheap."""
    if kind == ".parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    if path.suffix == ".gz" or kind == ".json":
        return None
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _schema(path: Path, kind: str, several: bool, _: Row) -> pa.Schema:
    fields: list[pa.Field] = []
    if kind == ".parquet":
        with open_parquet(path) as file:
            fields = [one for one in file.schema_arrow if one.name not in VERDICT]
    plain = [
        one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one
        for one in fields
    ]
    verdicts = [(name, pa.list_(type_) if several else type_) for name, type_ in VERDICT.items()]
    return pa.schema([*plain, *(pa.field(name, type_) for name, type_ in verdicts)])


class _Work:
    """Judges pieces of a file."""

    def __init__(self, made: Judged, pool: MathPool, own: Any, skip_bad: bool):
        self.made, self.pool, self.own, self.skip_bad = made, pool, own, skip_bad

    def judged(
        self, pieces: Iterator[list[Row]], total: int | None, on_event: Callable[[Event], None]
    ) -> Iterator[dict[str, Any]]:
        """Rows with their verdicts; those that are no rows at all are left out."""
        first = 1
        for piece in pieces:
            asked = [self._asked(row, first + i) for i, row in enumerate(piece)]
            if self.skip_bad or not self.made.bad:  # else only what else is bad matters
                yield from self._rows(piece, asked, first)
            first += len(piece)
            if total:
                bad = len(self.made.bad)
                on_event({"event": "verify", "done": first - 1, "total": total, "bad": bad})
        if self.made.bad and not self.skip_bad:
            raise refusal(self.made.bad, "response=COLUMN,answer=COLUMN")
        if not self.made.responses:
            left_out = f"{len(self.made.bad)} rows were left out"
            raise DataError(f"{self.made.file} has no response to judge", left_out)

    def _asked(self, row: Row, number_: int) -> list[tuple[str, str, str]]:
        """(response, reference, answer kind) of each response of a row; none if it is bad."""
        if row is BROKEN:
            return []  # it is noted
        get = partial(look_up, row)
        columns, bad = self.made.columns, self.made.bad
        texts: list[Any]
        if "response" in columns:
            value = get(columns["response"])
            texts = value if _several(value) else [message_text(value)]
        else:
            texts = [prompt_and_response(get(columns["messages"]))[1]]
        answer = as_text(get(columns["answer"]))
        what = columns.get("response") or columns["messages"]
        where = columns["answer"] if texts[0] is not None else what
        if texts[0] is None or answer is None or not answer.strip():
            bad.append(Bad(self.made.file, number_, where, "is missing"))
            return []
        kind = get(columns["answer_kind"]) if "answer_kind" in columns else "text"
        if kind not in KINDS:
            known = f"is none of {', '.join(KINDS)}: {str(kind)[:40]!r}"
            bad.append(Bad(self.made.file, number_, columns["answer_kind"], known))
            return []
        reason = get(columns["finish_reason"]) if "finish_reason" in columns else "stop"
        return [(said(each, str(reason)), answer, kind) for each in texts]

    def _rows(
        self, piece: list[Row], asked: list[list[tuple[str, str, str]]], first: int
    ) -> Iterator[dict[str, Any]]:
        made = self.made
        cases = [case for of_row in asked for case in of_row]
        if self.own is None:
            verdicts = judge_all(cases, self.pool)
        else:
            ids = [f"of row {first + i}" for i, of_row in enumerate(asked) for _ in of_row]
            verdicts = own_judge(self.own, ids, cases)
        made.responses += len(verdicts)
        made.right += sum(verdict.correct for verdict in verdicts)
        made.methods.update(verdict.method for verdict in verdicts)
        rest = iter(verdicts)
        for row, of_row in zip(piece, asked, strict=True):
            found = list(islice(rest, len(of_row)))
            made.rows += bool(found)
            self._compare(row, found)
            if row is not BROKEN:
                yield {**row, **_columns(found, _several(look_up(row, self._response)))}

    @property
    def _response(self) -> str:
        return self.made.columns.get("response", "")

    def _compare(self, row: Row, verdicts: Sequence[Judgement]) -> None:
        if "reward" not in self.made.columns:
            return
        value = look_up(row, self.made.columns["reward"])
        rewards = value if isinstance(value, list) else [value]
        for reward, verdict in zip(rewards, verdicts, strict=False):
            if (known := as_number(reward)) is not None and len(self.made.against) < 8:
                self.made.against[known, verdict.correct] += 1


def _columns(verdicts: Sequence[Judgement], several: bool) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {
        "verdict_correct": [verdict.correct for verdict in verdicts],
        "verdict_extracted": [verdict.extracted for verdict in verdicts],
        "verdict_method": [verdict.method for verdict in verdicts],
    }
    if several and verdicts:
        return dict(columns)
    return {name: values[0] if values else None for name, values in columns.items()}
