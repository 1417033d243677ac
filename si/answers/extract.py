r"""Finding the final answer of a response: by marks, in a stated order.

1. Thinking (`<think>...</think>`) is removed; unclosed, it leaves no answer.
2. The last `<answer>` tag or box of GLM counts before all else.
3. Else the last of all other marks counts: `\boxed{}`, `Answer:`, `The answer is`, `the correct
   option is`, `#### 42`, JSON, their Chinese forms. A response that corrects itself means its
   last word.
4. Without a mark: a concluding sentence, or a last line that is nothing but an answer.

A response that its token limit cut has an answer only where a mark is complete.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from si.answers.mark_patterns import BEFORE, BEHIND, MARK, REMARK, TRIGGERS
from si.answers.prose import final
from si.answers.text import RUN, RUNS, WINDOW, braced, clean, unmark

MARKS = 100  # marks looked at, from the last
SHORT = 3000  # characters of a response in which long runs do no harm
LINE = 4096  # characters of an answer's line at most


class Found(NamedTuple):
    """Where an answer stood and what stood there.

    Attributes:
        text: the answer as written; None if there is none.
        where: the rule that found it, or `nothing`.
        reason: why there is none: no_answer, truncated or thinking_only.
        boxes: all boxes of the response, if it was found in a box.
        together: the last boxes that stand in one row, as in `\\boxed{1} and \\boxed{3}`.
    """

    text: str | None
    where: str = "nothing"
    reason: str | None = None
    boxes: tuple[str, ...] = ()
    together: int = 1


# --- thinking and end tokens ----------------------------------------------------------------

_THINK = re.compile(
    r"<(/?)(?:think|thinking|thought)>|◁(/?)think▷|<\|(?:begin|end)_of_thought\|>", re.IGNORECASE
)
_END = re.compile(
    r"(?:</s>|<\|(?:im_end|endoftext|eot_id|end|end_of_text|eom_id|return|user|im_start|assistant)\|>|<eos>"
    r"|<end_of_turn>|<｜end▁of▁sentence｜>|\[/?INST\]|<\|end_of_sentence\|>)"
)


_HTML = re.compile(r"</?(?:b|i|u|em|strong|span|p|sup|mark)>|<br\s*/?>", re.IGNORECASE)


def whole(response: str) -> str:
    """The end of a response as it is searched: clean, in one Unicode form, long runs cut short."""
    text = clean(response[-WINDOW:])
    if "<" in text:
        text = _HTML.sub("", text)
    if len(text) < SHORT:
        return text
    return RUNS.sub(lambda match: match[0][:RUN], text)


def ended(text: str) -> str:
    """A response up to its first end token: what follows is a turn that the model made up."""
    if "<" in text or "[" in text:
        for match in _END.finditer(text):
            if text[: match.start()].strip():
                return text[: match.start()].rstrip()
    return text.rstrip()


def unthought(text: str) -> str | None:
    """A response without its thinking; None if the thinking does not end."""
    if "think" not in text and "thought" not in text:
        return text
    last = final(_THINK, text)
    if last is None:
        return text
    closing = "/" in last[0] or "end_of" in last[0]
    return text[last.end() :] if closing else None


# --- marks ----------------------------------------------------------------------------------

_VALUE = re.compile(r"\(?[A-J]\)?|[-−$\d.,/%\s]+")
_SPOKEN = re.compile(r"(?<=[^A-Z\s])[.!?。]\s+\S|。\s*\S")
_BLANK = re.compile(r"[\s*_`#>:：=.\"']*")
_LEADING = re.compile(r"(?:[\s*_`:：=}]|\"(?=\")|→|⇒|-+>)+")
_DISPLAY = re.compile(r"\s*(\$\$|\\\[|\\begin\{)")
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\begin{": "\\end{"}


class Mark(NamedTuple):
    """A mark in a text: its rule, and where what follows it begins."""

    rule: str
    start: int
    end: int


def marks(text: str, off: frozenset[str] = frozenset()) -> Iterator[Mark]:
    """All marks of a text, in order."""
    for start, end in _regions(text):
        for match in MARK.finditer(text, start, end):
            rule = match.lastgroup or ""
            if rule not in off:
                yield Mark(rule, match.start(), match.end())


def _regions(text: str) -> list[tuple[int, int]]:
    """Where marks can lie, in order and without overlap."""
    low = text.lower()
    if len(low) != len(text):  # a letter whose lower case is two
        return [(0, len(text))]
    found = []
    for trigger in TRIGGERS:
        at = low.find(trigger)
        while at >= 0:
            found.append(at)
            at = low.find(trigger, at + BEHIND // 2)
    made: list[tuple[int, int]] = []
    for at in sorted(found):
        start, end = max(0, at - BEFORE), at + BEHIND + BEHIND // 2
        if made and start <= made[-1][1]:
            made[-1] = (made[-1][0], end)
        else:
            made.append((start, end))
    return made


def find(
    response: str,
    kind: str = "text",
    *,
    cut: bool = False,
    off: frozenset[str] = frozenset(),
) -> Found:
    """The answer that a mark or a concluding line names; any text at all will do.

    Args:
        kind: the kind of answer that is looked for; marks of options are for choices only.
        cut: whether the token limit cut the response.
        off: rules that are switched off.
    """
    said = unthought(response) if "thinking" not in off else response
    if said is None:
        return Found(None, reason="truncated" if cut else "thinking_only")
    thought, text = len(said) != len(response), ended(whole(said))
    if not text:
        empty = "truncated" if cut else "thinking_only" if thought else "no_answer"
        return Found(None, reason=empty)
    every = list(marks(text, off))[-MARKS:]
    for first in ("tag", "glm_box"):
        found = _last(text, [mark for mark in every if mark.rule == first], kind, cut)
        if found:
            return found
    found = _last(text, [mark for mark in every if mark.rule not in ("tag", "glm_box")], kind, cut)
    if found:
        return found
    if thought and not cut and any(True for _ in marks(whole(response[: -len(said)]), off)):
        return Found(None, reason="thinking_only")
    return Found(None, reason="truncated" if cut else "no_answer")


def body(response: str) -> str | None:
    """A response as its last line is looked for: clean, without thinking and end tokens."""
    text = unthought(response)
    return None if text is None else ended(whole(text))


# A sentence that denies or supposes what its mark says.
_HEDGED = re.compile(
    r"\b(?:wrong|incorrect|false|invalid|not|never|isn['’]t)\s+(?:the\s+|an?\s+|our\s+)?[\"']?$"
    r"|\b(?:if|suppose|supposing|assume|assuming|whether|unless|say)\s+(?:that\s+)?(?:the\s+|our\s+)?"
    r"(?:final\s+|correct\s+|right\s+)?$"
    r"|\b(?:wrong|mistake|incorrect|error|tempting)\b[^.,;]*\b(?:say|claim|think|choose|conclude|that)\b"
    r"|\b(?:not|never)\s+true\s+that\b|\b(?:false|untrue|unclear|unlikely)\s+(?:that|whether)\b"
    r"|n['’]t\s+(?:think|believe)\b|\b(?:do|would|did)\s+not\s+(?:think|believe)\b"
    r"|\b(?:doubt|neither|nor|some\s+(?:say|might|people)|(?:first|initially|originally|had)\s+(?:i\s+)?thought"
    r"|one\s+might|might\s+think|at\s+first)\b",
    re.IGNORECASE,
)
_STOP = re.compile(r"[.!?\n]")
_CONTRAST = re.compile(r"\b(?:but|however|yet|although)\b", re.IGNORECASE)
_PLURAL = re.compile(r"\sare\s")
_NOT = re.compile(r"(?:(?:clearly|definitely|certainly)\s+)?not\s+(?=\S)", re.IGNORECASE)
_SUPPOSED = re.compile(r"\b(?:if|were|had)\b", re.IGNORECASE)


def hedged(text: str, mark: Mark) -> bool:
    """Whether a mark's own sentence denies or supposes it: `I doubt that the answer is 12`."""
    start = max(text.rfind(stop, 0, mark.start) for stop in (".", "!", "?", "\n")) + 1
    before = text[max(start, mark.start - 160) : mark.start]
    if mark.rule in ("named", "option", "answer", "json"):
        contrast = final(_CONTRAST, before)
        if _HEDGED.search(before[contrast.end() :] if contrast else before):
            return True
        stop = _STOP.search(text, mark.end)
        if mark.rule == "named" and stop and stop[0] == "?":
            return True
        said = text[mark.start : mark.end].lower()
        behind = text[mark.end : mark.end + 80].split("\n")[0]
        supposed = _SUPPOSED.search(before) or (mark.rule == "named" and _SUPPOSED.search(behind))
        return bool(" would " in said and supposed)
    return False


def _last(text: str, found: list[Mark], kind: str, cut: bool) -> Found | None:
    denied: list[str] = []
    for mark in reversed(found):
        if hedged(text, mark):
            continue
        if mark.rule == "named" and kind == "choice" and _PLURAL.search(text, *mark[1:]):
            continue
        chosen = mark.rule == "named" or "option" not in text[mark.start : mark.end].lower()
        if mark.rule in ("option", "named") and chosen and kind not in ("choice", "choices"):
            continue
        content, complete = _content(text, mark)
        if content is None or (cut and not complete):
            continue
        denial = _NOT.match(content)
        if denial:
            denied.append(content[denial.end() :].strip(" ."))
            continue
        if content.strip(" .") in denied:
            return None
        if mark.rule == "boxed":
            boxes = [m for m in found if m.rule == "boxed" and _content(text, m)[0]]
            texts = [_content(text, m)[0] or "" for m in boxes]
            return Found(content, "boxed", None, tuple(texts), _row(text, boxes, texts))
        return Found(content, mark.rule)
    return None


def _row(text: str, boxes: list[Mark], texts: list[str]) -> int:
    """How many of the last boxes stand in one row, with nothing but a joint between them."""
    count = 1
    for i in range(len(boxes) - 1, 0, -1):
        start = text.find("{", boxes[i - 1].end)
        close = braced(text, start) if start >= 0 else -1
        if close < 0 or not _JOINT.fullmatch(text, close + 1, boxes[i].start):
            break
        count += 1
    return count


_JOINT = re.compile(
    r"[\s$,;.&*]*(?:\\(?:text|mathrm)\{\s*(?:and|or|,)\s*\}|and|or|和|或|,|;|&|\\\)|\\\(|\\quad|\\\\)?[\s$,;*]*(?:\\\(|\\quad)?"
    r"(?:[a-zA-Z](?:_\{?\w\}?)?\s*=\s*)?[\s$]*"
)


def _content(text: str, mark: Mark) -> tuple[str | None, bool]:
    """What a mark marks, and whether it is complete; None if there is nothing."""
    rule, start, end = mark
    if rule in ("tag", "glm_box"):
        closing = "</" if rule == "tag" else "<|end_of_box|>"
        stop = text.find(closing, end)
        inner = text[end : stop if stop >= 0 else len(text)][:LINE].strip()
        inner = _inside(inner)
        return (inner or None), stop >= 0
    if rule == "boxed":
        return _box(text, end)
    if rule == "named":
        return text[start:end], True
    if rule == "json":
        return _json(text, end)
    content, complete = _line(text, end, rule)
    if content and _listed(text, end, content):
        return None, True
    if not content or REMARK.match(content):
        return None, True
    heading = len(content) > 60 or "\n" in text[end:].strip()
    if rule == "hash" and heading and not _VALUE.fullmatch(content):
        return None, True
    if rule == "chinese" and content[0] in "项择":
        content = content[1:]
    return content, complete


_OPTION = re.compile(r"\W{0,4}(?:option\s+)?\(?([A-Z])\s?[).:]\s", re.IGNORECASE)


def _listed(text: str, end: int, content: str) -> bool:
    """Whether what follows a mark is a list of options rather than one of them."""
    first = _OPTION.match(content)
    if first is None or first[1].upper() != "A":
        return False
    lines = [line for line in text[end : end + LINE].split("\n") if line.strip()][:3]
    return any((second := _OPTION.match(line)) and second[1].upper() == "B" for line in lines[1:])


def _inside(inner: str) -> str:
    """What a mark within a tag marks: `<answer>The answer is \\boxed{12}</answer>`."""
    nested = [mark for mark in marks(inner) if mark.rule != "tag"]
    for mark in reversed(nested):
        content = _content(inner, mark)[0]
        if content:
            return content
    return inner


def _box(text: str, end: int) -> tuple[str | None, bool]:
    while text[end : end + 1] in (" ", "\n"):
        end += 1
    if text[end : end + 1] != "{":
        line = re.match(r"[^\s$\\]+", text[end : end + 40])
        return (line[0] if line else None), True
    close = braced(text, end)
    if close < 0:
        rest = text[end + 1 : end + LINE].split("\n")[0]
        return (rest.rstrip("$ ").strip() or None), False
    inner = text[end + 1 : close].strip()
    if "answer" in inner.lower():
        inner = _inside(inner)
    return (inner or None), True


def _json(text: str, end: int) -> tuple[str | None, bool]:
    rest = text[end : end + LINE].lstrip()
    if rest[:1] in ("'", '"'):
        close = rest.find(rest[0], 1)
        while close > 0 and rest[close - 1] == "\\":
            close = rest.find(rest[0], close + 1)
        return (rest[1:close] if close > 0 else None), close > 0
    if rest[:1] == "[":
        close = rest.find("]")
        return (rest[1:close].replace('"', "") if close > 0 else None), close > 0
    value = re.match(r"[^,}\n]+", rest)
    return (value[0].strip() if value else None), bool(value and value.end() < len(rest))


def _line(text: str, start: int, rule: str) -> tuple[str | None, bool]:
    """The rest of a mark's line, or the next line with something in it; display mathematics
    over several lines counts as one."""
    piece = text[start : start + 2 * LINE]
    at = 0
    for _ in range(8):
        stop = piece.find("\n", at)
        line = piece[at : stop if stop >= 0 else len(piece)]
        display = _DISPLAY.match(line)
        if display:
            opening = display[1]
            close = piece.find(_CLOSING[opening], at + display.end())
            inner = piece[at + display.end() : close if close >= 0 else len(piece)]
            if opening == "\\begin{":
                close = piece.find("}", close) if close >= 0 else -1
                inner = piece[at + display.start(1) : close + 1 if close >= 0 else len(piece)]
            if close >= 0 and "\n" in inner.strip("\n") + ("\n" if "\n" in piece[at:close] else ""):
                return " ".join(inner.split()), True
        elif line.strip() in ("$", "\\("):
            pass
        if not _BLANK.fullmatch(line):
            end = start + (stop if stop >= 0 else len(piece))
            return tidy(line), end < len(text) or bool(_SPOKEN.search(line))
        if stop < 0:
            return None, True
        at = stop + 1
    return None, True


_ANGLED = re.compile(r"<\s*([^<>=]{1,80}?)\s*>\.?")
_STOPS = re.compile(r"</[a-z_]+>|<\||\\end\{(?:align|gather|equation)")
_UNQUOTED = re.compile(r"[\"'`]\s*[}\]]+\s*$")


def tidy(line: str) -> str:
    """An answer's line without what belongs to the mark: markup, quotes and open brackets."""
    line = _LEADING.sub("", line, count=1) if _LEADING.match(line) else line
    stop = _STOPS.search(line)
    if stop and stop.start() > 0:
        line = line[: stop.start()]
    if "[" not in line and "{" not in line:
        line = _UNQUOTED.sub("", line)
    line = unmark(_balanced(line.strip())).strip().rstrip("*_` ")
    if (
        line[-1:] in "'\"”’"
        and len(line) > 2
        and line.count(line[-1:]) % 2
        and line[-1:] not in line[:1]
    ):
        line = line[:-1].rstrip()
    angled = _ANGLED.fullmatch(line)
    return angled[1] if angled else line


def _balanced(line: str) -> str:
    """A line up to the first bracket that closes nothing: the rest of `\\text{Answer: C}`."""
    depth = 0
    for at, char in enumerate(line[:LINE]):
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth < 0:
                return line[:at].rstrip(" \\")
    if line.count("\\]") > line.count("\\["):
        line = line.replace("\\]", "", 1)
    if line.count("\\)") > line.count("\\("):
        line = line.replace("\\)", "", 1)
    return line[:LINE]
