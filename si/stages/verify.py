r"""Verify: decide of every rollout whether its final answer is the reference's.

Three steps, each for what the one before leaves open:

1. `extract` finds the final answer: what follows the last `Answer:` or `answer is`, or
   the last `\boxed{}`; without either, the last line.
2. The fast path decides in microseconds: equal after normalisation (method `exact`), two
   plain numbers compared as exact fractions (`number`), a choice's letter (`choice`).
3. `MathPool` asks math-verify about the rest (`math`), in processes that can be killed.

A response is untrusted: an answer of absurd length is none, and whatever math-verify
does with it (hang, eat memory, crash) ends its process, not this one. The time limit is
one of processor seconds, so a verdict does not depend on the machine's load. There is one
exception: a process that gets no answer out in `PATIENCE` times that limit by the clock is
killed as well, which on a machine so overloaded may be a verdict of `timeout` that another
machine would not give.
"""

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from si.config.recipe import Recipe, Verify
from si.datasets.dataset import Dataset
from si.errors import DataError, RecipeError, StageFailed
from si.machine.processes import cores, limit_memory
from si.plugins import is_custom, load
from si.records import VERDICTS
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.stages.stage import code_of
from si.store.commit import Output

LONGEST = 512  # characters of an answer; a longer one is none (nor twice its reference's length)
PATIENCE = 10  # the clock's limit, as a multiple of the limit in processor seconds
MEMORY = 1 << 30  # bytes that a worker may take beyond what it has after its imports
MARKS = 100  # places looked at where an answer may stand, from the last
MEMO = 100_000  # pairs of answers remembered at most


class Judgement(NamedTuple):
    """Right or wrong, the answer as found (None: none found), and the method that decided.

    Methods: exact, number, choice, math; timeout (math-verify used up its time) and none
    (no answer found, one of absurd length, or nothing that any method can compare), which
    are always wrong.
    """

    correct: bool
    extracted: str | None
    method: str


# --- finding the answer --------------------------------------------------------------------

_MARK = re.compile(r"\banswer\b[*_`\"')]{0,4}\s{0,4}(?:is\b|[:=：])|\\boxed\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[^A-Z\s])\.\s+(?=[A-Z])")
_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_CONTROL: dict[int, str | None] = {
    **dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), " "),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),  # lone surrogates cannot be stored
    **dict.fromkeys((0x0D, 0x2028, 0x2029), "\n"),
    **dict.fromkeys((0x200B, 0xFEFF), None),
}


class Found(NamedTuple):
    """An answer and where it stood: `answer` (after the word), `boxed`, `span` (the last
    formula of the last line), `line` (the last line), or `nothing` with no text."""

    text: str | None
    where: str


def extract(text: str) -> Found:
    r"""The final answer of a response, not yet normalised; any text at all will do.

    The last mark that has something behind it counts: a response that goes on to correct
    itself means its last word.
    """
    text = text.translate(_CONTROL)
    marks = list(_MARK.finditer(text))
    for mark in reversed(marks[-MARKS:]):
        boxed = mark.group().startswith("\\")
        found = _braced(text, mark.end()) if boxed else _rest_of_line(text, mark.end())
        if not boxed and mark.group()[-1] in "sS":  # "The answer is 12. I took ..."
            found = _SENTENCE.split(found, maxsplit=1)[0]
        if found.strip(" *_`.:="):
            return Found(found.lstrip(" *:=").rstrip(" *"), "boxed" if boxed else "answer")
    lines = [line for line in text.split("\n") if line.strip()]
    if marks or not lines:
        return Found(None, "nothing")
    line = lines[-1].strip()
    if len(line) > 8 * LONGEST:
        return Found(line, "line")
    spans = list(_SPAN.finditer(line))
    if spans:
        return Found(next(part for part in spans[-1].groups() if part).strip(), "span")
    return Found(line, "line")


def _braced(text: str, start: int) -> str:
    """What stands between the braces that open at `start`; of unbalanced ones, the line's rest."""
    while text[start : start + 1] == " ":
        start += 1
    if text[start : start + 1] != "{":
        return _rest_of_line(text, start)
    depth = 0
    for position in range(start, min(len(text), start + 8 * LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position]
    return _rest_of_line(text, start + 1)


def _rest_of_line(text: str, start: int) -> str:
    """The line from `start` on, or the next line that is not empty."""
    for line in text[start : start + 16 * LONGEST].split("\n"):
        if line.strip(" \t*_`"):
            return line
    return ""


# --- one spelling --------------------------------------------------------------------------

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\s+")
_SIZES = re.compile(r"\\(?:left|right|displaystyle|big|Big)(?![a-zA-Z])")
_SIGNS = {
    **dict.fromkeys((0x2212, 0x2013, 0x2014), "-"),
    **dict.fromkeys((0xA0, 0x2009, 0x202F), " "),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
}
_MATH_MODE = re.compile(r"(?<!\\)\\[()\[\]]")
_SHOUT = re.compile(r"(?<=[a-zA-Z])!+$")
_WRAPS = [pair.split() for pair in ("** **", "* *", "__ __", "` `", '" "', "' '", "“ ”")]


def normalise(text: str) -> str:
    """An answer in one spelling: no wrapping, no layout, one kind of minus, no final stop."""
    text = _MATH_MODE.sub("", _SIZES.sub("", text.translate(_SIGNS)))
    if text.count("$") % 2 == 0:  # one alone is money
        text = text.replace("$", "")
    text = _SPACE.sub(" ", text).strip()
    for _ in range(6):  # wrappings nest, but not without end
        before = text
        for opening, closing in _WRAPS:
            inner = text[len(opening) : -len(closing)]
            if inner and text == opening + inner + closing and opening not in inner:
                text = inner.strip()
        if text.startswith("\\boxed{") and text.endswith("}"):
            text = text[7:-1].strip()
        text = _SHOUT.sub("", _TEXT.sub(r" \1 ", text).strip().rstrip(" .;,"))
        if text == before:
            break
    return _SPACE.sub(" ", text).strip()


# --- plain numbers -------------------------------------------------------------------------

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?P<money>\\?\$|[€£¥])?\s*
    (?P<sign>[+-]?)\s*(?:\\?\$|[€£¥])?\s*
    (?: \\[dt]?frac\s*\{{\s*(?P<top>{_DIGITS})\s*\}}\s*\{{\s*(?P<bottom>{_DIGITS})\s*\}}
      | (?P<whole>\d+)\s+(?P<above>\d+)\s*/\s*(?P<below>\d+)
      | (?P<over>{_DIGITS})\s*/\s*(?P<under>{_DIGITS})
      | (?P<plain>{_DIGITS})(?:[eE](?P<power>[+-]?\d{{1,3}}))?
    )
    \s*(?P<unit>.*)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
# What may follow a number without changing its value, one unit a line in all its spellings.
# An unknown word is no unit: "12 thousand", "12 pi" and "12 or 13" are not 12.
_UNITS = """
    % percent
    ° deg degree degrees
    rad radian radians
    mm millimeter millimeters millimetre millimetres
    cm centimeter centimeters centimetre centimetres
    dm decimeter decimeters decimetre decimetres
    m meter meters metre metres
    km kilometer kilometers kilometre kilometres
    in inch inches
    ft foot feet
    yd yard yards
    mi mile miles
    mg milligram milligrams
    g gram grams
    kg kilogram kilograms
    ton tons
    lb lbs pound pounds
    oz ounce ounces
    ml milliliter milliliters millilitre millilitres
    cl
    dl
    l liter liters litre litres
    s sec second seconds
    min minute minutes
    h hr hour hours
    day days
    week weeks
    month months
    year years
    cent cents
    $ dollar dollars usd
    € euro euros eur
    £
    n newton newtons
    j joule joules
    w watt watts
    v volt volts
    a ampere amperes
    hz hertz
    pa pascal pascals
    kn
    kj
    kw
    mph
    km/h
    m/s
"""
UNITS = {word: line.split()[0] for line in _UNITS.split("\n") for word in line.split()}
UNITS |= {"unit": "", "units": ""}  # a unit that is none
_POWER = re.compile(r"\s*(?:\^\s*\{?\s*([23])\s*\}?|(²)|(³))$")
_AREA = re.compile(r"(?:(square|sq\.?)|cubic|cu\.?)\s+")
_DEGREE = re.compile(r"\^?\s*\{?\s*\\circ\s*\}?|º")


class Number(NamedTuple):
    """A plain number: its value, whether a percent sign followed, its unit (`` for none)."""

    value: Fraction
    percent: bool
    unit: str


def number(text: str) -> Number | None:
    """A normalised answer as a number, if it is nothing else; None if it is.

    Integers, decimals, fractions (`3/4`, `\\frac{3}{4}`), mixed numbers, powers of ten
    (`1.5e3`), thousands separators, a currency sign, a percent sign or a unit.
    """
    match = _NUMBER.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        return None
    unit = _unit(match["unit"] or "")
    if unit is None:
        return None
    if match["plain"]:
        value = _decimal(match["plain"]) * Fraction(10) ** int(match["power"] or 0)
    else:
        top, bottom = (
            _decimal(match[a] or match[b] or match[c])
            for a, b, c in (("top", "above", "over"), ("bottom", "below", "under"))
        )
        if not bottom:
            return None
        value = top / bottom + int(match["whole"] or 0)
    value = -value if match["sign"] == "-" else value
    percent = unit == "%"
    return Number(value, percent, "" if percent else unit or (match["money"] or "").strip("\\"))


def _decimal(digits: str) -> Fraction:
    # By parts: Fraction(str) refuses no "5.", but int(str) has a limit of 4300 digits.
    whole, _, part = digits.replace(",", "").partition(".")
    return Fraction(int((whole + part) or "0"), 10 ** len(part))


def _unit(text: str) -> str | None:
    """A known unit in its first spelling, with its power (`cm2`), `` for none; None for words
    that are no unit."""
    text = _DEGREE.sub("°", text).strip().lstrip("\\").strip().lower()
    if not text:
        return ""
    power = _POWER.search(text)
    word = text[: power.start()] if power else text
    area = _AREA.match(word)
    word = word[area.end() :] if area else word
    unit = UNITS.get(word.strip(" ."))
    if unit and area:
        unit += "2" if area[1] else "3"
    elif unit and power:
        unit += "3" if "3" in power.groups() or power[3] else "2"
    return unit


def same_number(one: Number, other: Number) -> bool:
    """Equal values; units have to agree where both have one.

    `50%` equals 0.5 and, since questions ask "what percentage", 50.
    """
    if one.unit and other.unit and one.unit != other.unit:
        return False
    if one.value == other.value:
        return True
    if one.percent == other.percent:
        return False
    percent, plain = (one, other) if one.percent else (other, one)
    return percent.value == 100 * plain.value


# --- choices -------------------------------------------------------------------------------

_CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:option|choice)\s+)?"
    r"(?:\(\s*([A-Za-z])\s*\)\s*[.:]?|([A-Z])\s*[.:)]\s|([A-Z])[.:)]?$|([a-z])$)\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_SECOND = re.compile(r"(?:^|\s)\(?[A-Za-z]\)|^(?:and|or)\b|^[&/,]", re.IGNORECASE)
_LETTER = re.compile(r"\(?[A-J]\)?")


def choice(text: str) -> tuple[str, str] | None:
    """A choice's letter (upper case) and the words behind it; None where no one letter is named.

    `B`, `(b)`, `B)`, `B. a dog`, `Option B`; not `A dog` (an article), not `(A) or (B)`.
    """
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    letter = next(part for part in match.groups()[:4] if part)
    words = match[5].strip()
    return None if _SECOND.search(words) else (letter.upper(), words)


# --- the verdict ---------------------------------------------------------------------------

_MATHS = re.compile(r"[\d\\^=+*/<>|√π∞]")


def quick(text: str, answer: str, kind: str = "text") -> Judgement:
    """What the fast path says; method `math` (and wrong, so far) means: ask math-verify.

    Args:
        text: the whole response.
        answer: the reference answer.
        kind: number, choice or text.
    """
    found = extract(text)
    if found.text is None:
        return Judgement(False, None, "none")
    if len(found.text) > max(LONGEST, 2 * len(answer)):
        return Judgement(False, found.text[:LONGEST], "none")
    given, wanted = normalise(found.text), normalise(answer.translate(_CONTROL))
    if not given:
        return Judgement(False, None, "none")
    formula = bool(_MATHS.search(wanted))
    # Case carries meaning in formulas only.
    if given == wanted or (not formula and given.casefold() == wanted.casefold()):
        return Judgement(True, given, "exact")
    if kind == "choice" or (kind == "text" and _LETTER.fullmatch(wanted)):
        return _judge_choice(given, wanted)
    one, other = number(wanted), number(given)
    if one and other:
        return Judgement(same_number(one, other), given, "number")
    # Names are no products of letters, and math-verify would find some number in any prose.
    if not formula or found.where == "line":
        return Judgement(False, given, "none")
    return Judgement(False, given, "math")


def _judge_choice(given: str, wanted: str) -> Judgement:
    ours, theirs = choice(given), choice(wanted)
    if ours is None:
        return Judgement(False, given, "none")
    if theirs is None:  # the reference is an option's text
        return Judgement(ours[1].casefold() == wanted.casefold(), given, "choice")
    return Judgement(ours[0] == theirs[0], given, "choice")


def judge(text: str, answer: str, kind: str = "text", pool: "MathPool | None" = None) -> Judgement:
    """Whether a response's final answer equals the reference; never raises, whatever the text.

    Args:
        text: the whole response.
        answer: the reference answer.
        kind: number, choice or text.
        pool: asked where the fast path cannot tell; without one, the verdict is wrong (`none`).
    """
    (verdict,) = judge_all([(text, answer, kind)], pool)
    return verdict


def judge_all(
    cases: Iterable[tuple[str, str, str]], pool: "MathPool | None" = None
) -> list[Judgement]:
    """`judge` for many (text, answer, kind), math-verify's part in parallel."""
    cases = list(cases)
    verdicts = [quick(*case) for case in cases]
    pending = [i for i, verdict in enumerate(verdicts) if verdict.method == "math"]
    pairs = [(normalise(cases[i][1].translate(_CONTROL)), verdicts[i].extracted) for i in pending]
    methods = pool.equal([(a, b or "") for a, b in pairs]) if pool and pairs else []
    for i, said in zip(pending, methods or ["none"] * len(pending), strict=True):
        method = said if said in ("timeout", "none") else "math"
        verdicts[i] = Judgement(said == "equal", verdicts[i].extracted, method)
    return verdicts


# --- math-verify, at arm's length ----------------------------------------------------------


class MathPool:
    """Processes that ask math-verify whether two answers are equal, and can be killed.

    They start when first asked (importing sympy takes a second or more), get no part of the
    environment but what Python needs, and end with `close` or with the garbage. Answers are
    remembered by (reference, answer).

    Args:
        timeout: processor seconds for one pair.
        size: processes at most; default one per core, at most 4.
        memory: bytes that a process may take on top of its libraries.
    """

    def __init__(self, timeout: float = 5.0, size: int | None = None, memory: int = MEMORY):
        self.timeout = timeout
        self.size = size or min(4, cores())
        self.memory = memory
        self.memo: dict[tuple[str, str], str] = {}
        self._idle: list[_Worker] = []
        weakref.finalize(self, _end, self._idle)

    def __enter__(self) -> "MathPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; the pool can be used again and then starts new ones."""
        _end(self._idle)

    def equal(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """For each (reference, answer): equal, different, timeout or none (the process died).

        Raises:
            StageFailed: if math-verify cannot be started at all.
        """
        if len(self.memo) > MEMO:
            self.memo.clear()
        todo = deque(dict.fromkeys(pair for pair in pairs if pair not in self.memo))
        # More processes than a handful of pairs each would spend their time on importing.
        size = min(self.size, -(-len(todo) // 8))
        while len(self._idle) < size:
            self._idle.append(self._new())
        busy: dict[_Worker, tuple[str, str]] = {}
        with selectors.DefaultSelector() as selector:
            try:
                while todo or busy:
                    while todo and len(busy) < size:
                        worker = self._idle.pop() if self._idle else self._new()
                        busy[worker] = todo.popleft()
                        worker.ask(busy[worker])
                        selector.register(worker.output, selectors.EVENT_READ, worker)
                    soonest = min(worker.deadline for worker in busy)
                    ready = selector.select(max(0.0, soonest - time.monotonic()))
                    heard = {key.data for key, _ in ready}
                    late = {worker for worker in busy if time.monotonic() > worker.deadline}
                    for worker in heard | late:
                        said = worker.answer() if worker in heard else "timeout"
                        selector.unregister(worker.output)
                        self.memo[busy.pop(worker)] = said
                        if said in ("equal", "different"):
                            self._idle.append(worker)
                        else:
                            worker.kill()
            finally:
                for worker in busy:
                    worker.kill()
        return [self.memo[pair] for pair in pairs]

    def _new(self) -> "_Worker":
        return _Worker(self.timeout, self.memory)


def _end(workers: "list[_Worker]") -> None:
    while workers:
        workers.pop().kill()


class _Worker:
    """One process of the pool: a line of JSON in, a line out."""

    def __init__(self, timeout: float, memory: int):
        kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        # The order of sets, and so sympy's way through a problem, follows the hash seed.
        environment |= {"PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from si.stages.verify import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin and self.process.stdout
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout
        self.patience = PATIENCE * timeout
        self.deadline = 0.0
        self.ready = False
        self._send({"timeout": timeout, "memory": memory})

    def _send(self, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows when it is read
            self.input.write(json.dumps(value).encode() + b"\n")
            self.input.flush()

    def ask(self, pair: tuple[str, str]) -> None:
        if not self.ready:  # waited for here, so that its imports are not on the pair's clock
            self.ready = self.output.readline() == b"ready\n"
        if not self.ready:
            # Going on would call every formula wrong.
            self.kill()
            raise StageFailed(
                "The process that compares formulas does not start",
                f"{sys.executable} -c 'import math_verify' ended with {self.process.returncode}",
                "Run that command to see why; is math-verify installed, is memory short?",
            )
        self.deadline = time.monotonic() + self.patience
        self._send(pair)

    def answer(self) -> str:
        """The answer that is there to be read, or why there is none."""
        line = self.output.readline().decode().strip()
        if line in ("equal", "different"):
            return line
        spent = self.process.wait()
        # Ended by its processor-time alarm; anything else is a crash or a lack of memory.
        return "timeout" if -spent in (_SIGPROF, _SIGALRM) else "none"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it had not read yet
            self.input.close()
        self.output.close()


_SIGALRM, _SIGPROF = 14, 27


def _serve() -> None:
    """The process's main: answer pairs until the input ends.

    Both alarms keep their default action, which ends the process from within the kernel,
    whatever Python or C code is at work; the one by the clock is for a process whose parent
    is gone.
    """
    import logging
    import signal

    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries that print do not print into the protocol
    requests = os.fdopen(0, "rb")
    settings = json.loads(requests.readline())
    logging.disable(logging.CRITICAL)
    math_equal("1", "2")  # imports
    limit_memory(int(settings["memory"]))
    replies.write(b"ready\n")
    for line in requests:
        reference, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, settings["timeout"])
        signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE * settings["timeout"])
        said = b"equal\n" if math_equal(reference, answer) else b"different\n"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(said)


_WORD = re.compile(r"(?<![\\a-zA-Z])(pi|sqrt|infinity|infty)(?![a-zA-Z])")
_WORDS = {"pi": r"\pi ", "sqrt": r"\sqrt", "infinity": r"\infty ", "infty": r"\infty "}
_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")


def _latex(text: str) -> str:
    """A normalised answer as one formula, words of plain-text mathematics made commands."""
    text = _WORD.sub(lambda match: _WORDS[match[1]], text.replace("$", ""))
    return f"${_ROOT.sub(lambda match: _WORDS['sqrt'] + '{' + match[1] + '}', text)}$"


def math_equal(reference: str, answer: str) -> bool:
    """Whether math-verify takes two normalised answers for equal. It may hang: see `MathPool`.

    Both are read as LaTeX alone: math-verify's reader of plain expressions is Python's `eval`.
    """
    from math_verify import LatexExtractionConfig, parse
    from math_verify import verify as equal
    from sympy.core.random import seed  # type: ignore[import-untyped]

    seed(0)  # sympy tests equality at random points
    one, other = (
        parse(_latex(text), [LatexExtractionConfig()], parsing_timeout=None)
        for text in (reference, answer)
    )
    return bool(equal(one, other, timeout_seconds=None))


# --- the stage -----------------------------------------------------------------------------


def said(text: str, finish_reason: str) -> str:
    """The response as far as it is whole: one that met its token limit loses its last line,
    since what was cut there may have been the answer's other half."""
    return text.rpartition("\n")[0] if finish_reason == "length" else text


def own_judge(
    judge: Callable[[str, str, str], object],
    ids: Sequence[str],
    cases: Iterable[tuple[str, str, str]],
) -> list[Judgement]:
    """Verdicts of the user's own function of (response, reference, answer kind).

    It returns a `Judgement`, or True or False, which is a verdict of method `own`.

    Raises:
        RecipeError: if it raises something, or returns anything else.
    """
    verdicts = []
    for query_id, case in zip(ids, cases, strict=True):
        try:
            said = judge(*case)
        except Exception as error:
            raise RecipeError(
                f"The own verifier failed on a response to query {query_id}",
                f"{type(error).__name__}: {error}",
                "Let it return False for what it cannot read.",
            ) from error
        if isinstance(said, bool):
            said = Judgement(said, None, "own")
        if not isinstance(said, Judgement):
            raise RecipeError(
                f"The own verifier returned {said!r} for a response to query {query_id}",
                "expected True, False or a si.stages.verify.Judgement",
            )
        verdicts.append(said)
    return verdicts


class Settings(stage.Settings):
    """What verifying reads of the recipe."""

    verify: Verify = Verify()

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        return cls(verify=recipe.verify, code=code_of(recipe.verify.judge))

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        if not is_custom(self.verify.judge):
            del values["verify"]["judge"]
        return values


class Params(stage.Params):
    """Nothing but the generation."""


class Facts(stage.Facts):
    """How many samples were verified, and how many of them are correct."""

    samples: int = 0
    correct: int = 0

    def describe(self) -> str:
        return f"{100 * self.correct / max(1, self.samples):.1f} % right"


def verify(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: shard i of the rollouts to shard i of the verdicts.

    Raises:
        DataError: if a rollout's query is not in the data set.
    """
    data = Dataset(job.input("data"))
    columns = ["query_id", "answer", "answer_kind"]
    table = data.table(columns=columns).select(columns)
    wanted = {row["query_id"]: (row["answer"], row["answer_kind"]) for row in table.to_pylist()}
    pool = MathPool(timeout=job.settings.verify.math_timeout)
    name = job.settings.verify.judge
    own = load("judge", name, {}) if is_custom(name) else None

    def shard(number: int) -> Output:
        which = ["query_id", "round", "prefix_id", "sample"]
        columns = [*which, "text", "finish_reason"]
        rollouts = job.input("rollouts").table("rollouts.parquet", number, columns)
        ids = rollouts["query_id"].to_pylist()
        strange = set(ids) - wanted.keys()
        if strange:
            raise DataError(
                f"{len(strange)} queries of {job.input('rollouts').address} are not in the data",
                f"the first is {min(strange)}, shard {number}; data {data.artifact.address}",
                "Verify rollouts with the data set that they were sampled from.",
            )
        texts = list(map(said, rollouts["text"].to_pylist(), rollouts["finish_reason"].to_pylist()))
        cases = [(text, *wanted[query]) for query, text in zip(ids, texts, strict=True)]
        verdicts = judge_all(cases, pool) if own is None else own_judge(own, ids, cases)
        correct, extracted, method = zip(*verdicts, strict=True) if verdicts else ((), (), ())
        made = rollouts.select(which)
        for name, values in (("correct", correct), ("extracted", extracted), ("method", method)):
            made = made.append_column(name, pa.array(values, VERDICTS.field(name).type))
        return Output(
            files={"verdicts.parquet": made.cast(VERDICTS)},
            rows=len(made),
            facts=Facts(samples=len(made), correct=sum(correct)).identity(),
            provenance={
                "methods": dict(Counter(method)),
                "found": dict(Counter(extract(text).where for text in texts)),
            },
        )

    return shard
