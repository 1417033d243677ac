"""Judge a file of responses and references as the verify stage does.

Rows are read, judged and written in batches. Columns are recognised by their names, as
`diagnose` does, or named by the user.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.answers import KINDS, Case, Judge, MathPool, Policy, Verdict
from si.answers import understand as understood
from si.answers.case import plain
from si.answers.custom import judge_custom
from si.answers.unread import UNREAD
from si.datasets.row_fields import options_of
from si.datasets.row_images import BadRow
from si.errors import DataError
from si.events import Event
from si.machine.files import check
from si.plugins import load
from si.readers.aliases import look_up, root
from si.readers.files import KINDS as FILES
from si.readers.files import arrow_batches, arrow_schema, kind_of, open_parquet
from si.readers.reading import reading
from si.rollouts.chunks import (
    BROKEN,
    Part,
    Row,
    Text,
    first_rows,
    is_columnar,
    json_objects,
    taken_apart,
)
from si.rollouts.judged import Judged
from si.rollouts.known_tools import ALIASES, ANSWERS, LAYOUTS
from si.rollouts.layouts import write
from si.rollouts.messages import (
    as_number,
    finish_reasons,
    holds_several,
    message_text,
    prompt_and_response,
    several_responses,
)
from si.rollouts.opinions import Opinions
from si.rollouts.table import Bad, refusal

FIELDS = (
    *("response", "messages", "answer", "answer_kind", "choices", "finish_reason", "reward"),
    *("id", "question", "truth"),
)
IDS = ("id", "query_id", "question_id", "qid", "pid", "uid", "problem_id", "doc_id", "index")
PIECE = 2000  # rows judged at a time
VERDICT = {
    "verdict_correct": pa.bool_(),
    "verdict_extracted": pa.string(),
    "verdict_method": pa.string(),
    "verdict_kind": pa.string(),
    "verdict_where": pa.string(),
    "verdict_rule": pa.string(),
    "verdict_reason": pa.string(),
}


def judge_file(
    path: Path,
    mapping: Mapping[str, str] | None = None,
    out: Path | None = None,
    *,
    judge: str = "answers",
    policy: Policy | None = None,
    opinions: Opinions | None = None,
    timeout: float = 5.0,
    skip_bad: bool = False,
    force: bool = False,
    encoding: str = "",
    on_event: Callable[[Event], None] = lambda _: None,
) -> Judged:
    """Judge all responses of a file, of any kind that `si.readers.files` knows.

    Args:
        mapping: field -> column or path: response (or messages, whose last one it is), answer
            (one, or a list of accepted ones); answer_kind, choices, finish_reason, reward, id,
            question and truth if there are any.
        out: a file to write, completely or not at all: all rows and columns, and the columns of
            `VERDICT`. Parquet from Parquet and Arrow; JSON lines or JSON from texts.
        judge: `answers`, or `package.module:function` as a recipe's `verify.judge`.
        policy: profile, tolerance, units and rules; by default those of a recipe.
        opinions: collects further checks of the verdicts.
        timeout: processor seconds that math-verify may take for one answer.
        skip_bad: leave out rows without a response or a reference instead of refusing; in `out`
            their verdicts are null.
        encoding: of texts; empty for UTF-8.
        on_event: receives how many rows are `done` of the `total`, if that is known.

    Raises:
        DataError: if columns are not recognised, rows are bad, or `out` does not fit.
    """
    kind = _kind_of(path)
    if out is not None:
        _check_out(out, path, kind, force)
    part: Part = Text(path, encoding) if encoding else path
    names, rows = first_rows(str(path), part)
    columns = understand(names, rows, mapping or {}, str(path))
    made = Judged(str(path), columns, opinions=opinions or Opinions())
    own = None if judge == "answers" else load("judge", judge, {})
    with MathPool(timeout) as pool:
        rules = Judge(policy or Policy(), pool).judge_all
        work = _Work(made, rules if own is None else partial(judge_custom, own), skip_bad)
        wanted = None if out else sorted({root(where, names) for where in columns.values()})
        pieces = _pieces(part, path, kind, wanted, made.bad)
        judged = work.judged(pieces, _count(path, kind), on_event)
        if out is None:
            for _ in judged:
                pass
        else:
            several = any(holds_several(look_up(row, columns.get("response", ""))) for row in rows)
            write(judged, partial(_schema, path, kind, several), out, force)
        made.timeouts = pool.counts["timeout"]
    return made


def keeps_columns(path: Path) -> bool:
    """Whether a file's verdicts are written as Parquet: tables are, texts are not."""
    return kind_of(path) in _TABLES


_WRITTEN = (".jsonl", ".json", ".parquet")
_TABLES = ("parquet", "arrow")


def _kind_of(path: Path) -> str:
    """The file's kind, if it is one that can be judged."""
    if not path.is_file():
        raise DataError(f"There is no file {path}", f"looked in {path.absolute().parent}")
    kind = kind_of(path)
    if not kind:
        raise DataError(f"{path} is not a file of rows", f"known: {', '.join(FILES)}")
    return kind


def _check_out(out: Path, path: Path, kind: str, force: bool) -> None:
    """Refuse an output file of another kind than the input's, or that cannot be written."""
    table = kind in _TABLES
    if (out.suffix == ".parquet") != table or out.suffix not in _WRITTEN:
        raise DataError(
            f"{out} cannot be written from {path.name}",
            "",
            f"Name a file as {'x.parquet' if table else 'x.jsonl'}: --out",
        )
    if table and _holds_columns(path, kind):
        raise DataError(
            f"{path} holds columns as lists, so its verdicts cannot be written beside them",
            "",
            "Judge it without --out, or write a row for each sample first.",
        )
    check(out, force)


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
    named("answer", (*ANSWERS, "answers"))
    kinds = [row.get("kind") for row in rows[:50] if isinstance(row, dict)]
    known_kinds = any(kinds) and set(kinds) <= {None, *KINDS}
    named("answer_kind", ("answer_kind", "kind") if known_kinds else ("answer_kind",))
    named("choices", ("choices", "options"))
    named("id", IDS)
    named("question", ("question", "prompt", "problem", "query"))
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


def _batches(path: Path, kind: str, columns: Sequence[str] | None) -> Iterator[list[Row]]:
    """The rows of a Parquet or Arrow file, a piece at a time."""
    if kind == "parquet":
        with open_parquet(path) as file:
            for batch in file.iter_batches(PIECE, columns=columns):
                yield batch.to_pylist()
        return
    with reading(str(path)):
        for _, batch in arrow_batches(path, PIECE, columns, None):
            yield batch.to_pylist()


def _holds_columns(path: Path, kind: str) -> bool:
    """Whether the first row of a table holds columns as lists."""
    first = next(_batches(path, kind, None), [])
    return bool(first) and is_columnar(first[0])


def _pieces(
    part: Part, path: Path, kind: str, columns: Sequence[str] | None, bad: list[Bad]
) -> Iterator[list[Row]]:
    if kind in _TABLES:
        for batch in _batches(path, kind, columns):
            yield [each for row in batch for each in taken_apart(str(path), row)]
        return
    rows = iter(json_objects(str(path), part, bad))
    while piece := list(islice(rows, PIECE)):
        yield piece


def _count(path: Path, kind: str) -> int | None:
    """How many rows the file has, if looking is cheap."""
    if kind == "parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    if path.suffix == ".gz" or kind != "jsonl":
        return None
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _schema(path: Path, kind: str, several: bool, _: Row) -> pa.Schema:
    fields: list[pa.Field] = []
    if kind in _TABLES:
        with reading(str(path)):
            schema = arrow_schema(path) if kind == "arrow" else pq.read_schema(path)
            fields = [one for one in schema if one.name not in VERDICT]
    plain = [
        one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one
        for one in fields
    ]
    verdicts = [(name, pa.list_(type_) if several else type_) for name, type_ in VERDICT.items()]
    return pa.schema([*plain, *(pa.field(name, type_) for name, type_ in verdicts)])


class _Work:
    """Judges pieces of a file."""

    def __init__(
        self,
        made: Judged,
        judge: Callable[[Sequence[Case]], list[Verdict]],
        skip_bad: bool,
    ):
        self.made, self.judge, self.skip_bad = made, judge, skip_bad

    def judged(
        self, pieces: Iterator[list[Row]], total: int | None, on_event: Callable[[Event], None]
    ) -> Iterator[dict[str, Any]]:
        """Rows with their verdicts; those that are no rows at all are left out."""
        first = 1
        for piece in pieces:
            asked = [self._asked(row, first + i) for i, row in enumerate(piece)]
            if self.skip_bad or not self.made.bad:  # else only what else is bad matters
                yield from self._rows(piece, asked)
            first += len(piece)
            if total:
                bad = len(self.made.bad)
                on_event({"event": "verify", "done": first - 1, "total": total, "bad": bad})
        if self.made.bad and not self.skip_bad:
            raise refusal(self.made.bad, "response=COLUMN,answer=COLUMN")
        if not self.made.responses:
            left_out = f"{len(self.made.bad)} rows were left out"
            raise DataError(f"{self.made.file} has no response to judge", left_out)

    def _asked(self, row: Row, number_: int) -> list[Case]:
        """The case of each response of a row; none if it is bad."""
        if row is BROKEN:
            return []  # it is noted
        try:
            return self._cases(row, number_)
        except BadRow as error:
            columns = self.made.columns
            where = columns.get(error.field, error.field)
            self.made.bad.append(Bad(self.made.file, number_, where, error.why))
            return []

    def _cases(self, row: Row, number_: int) -> list[Case]:
        columns = self.made.columns

        def get(name: str) -> Any:
            return look_up(row, columns[name]) if name in columns else None

        texts: list[Any]
        if "response" in columns:
            value = get("response")
            texts = several_responses(value) or [message_text(value)]
        else:
            texts = [prompt_and_response(get("messages"))[1]]
        if texts[0] is None:
            raise BadRow("response" if "response" in columns else "messages", "is missing")
        choices = tuple(options_of(get("choices")))
        references = _references(get("answer"), choices)
        kind = get("answer_kind")
        if kind not in (None, "", *KINDS):
            raise BadRow("answer_kind", f"is not one of {', '.join(KINDS)}: {str(kind)[:40]!r}")
        kind = kind or None
        try:
            for reference in references:
                understood(reference, kind, choices)
        except DataError as error:
            raise BadRow("answer", error.headline) from error
        given = get("finish_reason") or finish_reasons(get("response"))
        reasons = given if isinstance(given, list) else [given] * len(texts)
        if len(reasons) != len(texts):
            raise BadRow("finish_reason", f"has {len(reasons)} values for {len(texts)} responses")
        name, question = get("id"), get("question")
        asked = question if isinstance(question, str) else ""
        id_ = f"row {number_}" if name is None else str(name)
        return [
            Case(text, references, kind, choices, str(reason or "stop"), id_, asked)
            for text, reason in zip(texts, reasons, strict=True)
        ]

    def _rows(self, piece: list[Row], asked: list[list[Case]]) -> Iterator[dict[str, Any]]:
        made = self.made
        cases = [case for of_row in asked for case in of_row]
        verdicts = self.judge(cases)
        made.responses += len(verdicts)
        made.right += sum(verdict.correct for verdict in verdicts)
        for case, verdict in zip(cases, verdicts, strict=True):
            made.methods[verdict.method] += 1
            made.kinds[verdict.kind] += 1
            made.found[verdict.where] += 1
            made.rules[verdict.rule] += 1
            if verdict.reason:
                made.reasons[verdict.reason] += 1
            if verdict.reason in UNREAD and len(made.examples) < 3:
                made.examples.append((case, verdict))
        truths = [
            truth
            for row, of_row in zip(piece, asked, strict=True)
            for truth in self._truths(row, len(of_row))
        ]
        made.opinions.hear(cases, verdicts, truths)
        rest = iter(verdicts)
        for row, of_row in zip(piece, asked, strict=True):
            found = list(islice(rest, len(of_row)))
            made.rows += bool(found)
            self._compare(row, found)
            if row is not BROKEN:
                yield {**row, **_columns(found, holds_several(look_up(row, self._response)))}

    def _truths(self, row: Row, count: int) -> list[bool | None]:
        """The human verdicts on a row's responses; None where there is none."""
        if "truth" not in self.made.columns or not count:
            return [None] * count
        value = look_up(row, self.made.columns["truth"])
        values = value if isinstance(value, list) else [value] * count
        known = [as_number(each) for each in values]
        truths = [None if each is None else each > 0 for each in known][:count]
        return truths + [None] * (count - len(truths))

    @property
    def _response(self) -> str:
        return self.made.columns.get("response", "")

    def _compare(self, row: Row, verdicts: Sequence[Verdict]) -> None:
        if "reward" not in self.made.columns:
            return
        value = look_up(row, self.made.columns["reward"])
        rewards = value if isinstance(value, list) else [value]
        for reward, verdict in zip(rewards, verdicts, strict=False):
            if (known := as_number(reward)) is not None and len(self.made.against) < 8:
                self.made.against[known, verdict.correct] += 1


def _columns(verdicts: Sequence[Verdict], several: bool) -> dict[str, Any]:
    names = {name: name.removeprefix("verdict_") for name in VERDICT}
    columns = {name: [getattr(v, field) for v in verdicts] for name, field in names.items()}
    if several and verdicts:
        return dict(columns)
    return {name: values[0] if values else None for name, values in columns.items()}


def _references(value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    """The accepted answers of a row: a value, or a list of them; with choices, a whole number that
    is none of their texts counts them from 0, as in `data import`.

    Raises:
        BadRow: if there is none, or it is a struct.
    """
    values = value if isinstance(value, list | tuple) else [value]
    made = []
    for each in values:
        if isinstance(each, Mapping | list):
            raise BadRow("answer", "is neither a text nor a number")
        if each is None or not str(each).strip():
            continue
        index = isinstance(each, int) and not isinstance(each, bool) and str(each) not in choices
        if index and 0 <= each < len(choices):
            each = chr(65 + each)
        made.append(plain(each))
    if not made:
        raise BadRow("answer", "is missing")
    return tuple(made)
