"""Sentences of a response: the last ones, what they conclude, and what they say something is."""

import re

from si.answers.text import unmark


def final(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern."""
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


_SENTENCES = re.compile(
    r"(?<=[^A-Z\s.])[.!?]\s+(?=[A-Z\\$(*\"“])|(?<=[)\]}%°\d][.!?])\s+(?=[A-Z])|[。！？]|\n+"
)


def sentences(text: str) -> list[str]:
    """The last sentences of a text, in order."""
    return [part.strip() for part in _SENTENCES.split(text[-2000:]) if part and part.strip()]


_CONCLUDING = re.compile(
    r"^(?:\W{0,4})(?:therefore|thus|hence|so(?! far| that)"
    r"|in conclusion|in summary|in total|finally"
    r"|consequently|overall|as a result|accordingly|"
    r"we (?:get|find|have|conclude)|this (?:gives|means|shows))(?![a-zA-Z])"
    r"[,:]?\s*(?P<rest>.{1,300})$"
    r"|^\W{0,4}(?:所以|因此|综上(?:所述)?|总之|答(?=[,:]))[,:]?\s*(?P<said>.{1,120})$",
    re.IGNORECASE | re.DOTALL,
)
_COPULA = re.compile(
    r"(?:^|\s)(?:is|are|was|were|equals?|be|costs?|measures?|weighs?|contains?|has|have|had"
    r"|it['’]s|gives?|becomes?|totals?|takes?|needs?|"
    r"got|get|gets|earns?|earned|makes?|made|paid|spent"
    r"|left with|represents?|shows?|reads?|comes to)\s+"
    r"(?:there\s|thus\s|therefore\s|also\s|now\s|simply\s|exactly\s|a total of\s|given by\s"
    r"|equal to\s|of\s|about\s|approximately\s|(?:located |situated |found )?at\s)*",
    re.IGNORECASE,
)


_CHINESE = re.compile(r"(?<!不)(?:等于|共有|只有|是|为|有|得)")


def concluded(text: str) -> str | None:
    """The sentence that concludes a response (`Therefore, ...`), if its last one does."""
    last = sentences(text)
    match = _CONCLUDING.match(unmark(last[-1])) if last else None
    return (match["rest"] or match["said"]) if match else None


def predicate(sentence: str) -> str | None:
    """What a sentence says its subject is: what follows its last `is`, `equals` or the like."""
    last = final(_COPULA, sentence) or final(_CHINESE, sentence)
    return sentence[last.end() :].strip() if last else None


def last_line(text: str) -> tuple[str, list[str]]:
    """A text's last line (or display over lines), and the lines before it."""
    lines = [line.strip() for line in text[-8000:].split("\n") if line.strip()]
    if not lines:
        return "", []
    for closing, opening in (("$$", "$$"), ("\\]", "\\[")):
        if lines[-1] == closing:
            for at in range(len(lines) - 2, max(-1, len(lines) - 12), -1):
                if lines[at].startswith(opening):
                    inner = " ".join(lines[at:-1]).removeprefix(opening)
                    return inner.strip(), lines[:at]
    return lines[-1], lines[:-1]
