"""Options: their letters, their texts and their numbers, and how an answer names one."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from si.answers.case import Policy
from si.answers.formulas import Comparer
from si.answers.grammar import read
from si.answers.prose import predicate
from si.answers.spelling import TooBig, Unreadable
from si.answers.text import clean, fold, leadless, truth, words
from si.answers.tokens import Node


class Named(NamedTuple):
    """What an answer names: letters in order, or why there is no one choice."""

    letters: tuple[str, ...] = ()
    reason: str | None = None


NOTHING = Named((), "no_answer")
SEVERAL = Named((), "several_answers")


_DRAWN = re.compile(r"(?:\\(?:measured)?angle(?![a-z])|m?∠|\bangle\b)\s*")


def option_text(text: str) -> str:
    """An option's text as options are compared: `\\angle B` is `∠B` and `angle B`."""
    return _DRAWN.sub("angle ", fold(text))


class Options:
    """The options of one question.

    Attributes:
        texts: their texts, without the letters before them.
        letters: A, B, C ...
    """

    def __init__(self, texts: Sequence[str]):
        self.texts = tuple(_bare(texts))
        self.letters = tuple(chr(65 + i) for i in range(min(26, len(self.texts))))
        self.folded = [option_text(text) for text in self.texts]
        self.exact = [fold(text, case=True) for text in self.texts]
        self._nodes: list[Node | None] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def nodes(self) -> list[Node | None]:
        """The options as mathematics, None where they are not."""
        if self._nodes is None:
            self._nodes = [_node(text) for text in self.texts]
        return self._nodes

    def match(self, text: str) -> str | None:
        """The letter of the one option that a text equals, as text or as mathematics."""
        if not text or len(text) > 400:
            return None
        folded = option_text(text)
        same = [i for i, option in enumerate(self.folded) if option == folded]
        if len(same) > 1:
            exact = fold(text, case=True)
            same = [i for i in same if self.exact[i] == exact]
        if len(same) == 1:
            return self.letters[same[0]]
        if same or not any(self.nodes) or not any(char.isdigit() or char == "\\" for char in text):
            return None
        node = _node(text)
        if node is None:
            return None
        comparer = Comparer(Policy())
        same = [
            i for i, option in enumerate(self.nodes) if option and _same(comparer, option, node)
        ]
        return self.letters[same[0]] if len(same) == 1 else None

    def truth(self, text: str) -> str | None:
        """The letter of the option `Yes` or `No` (or `True`, `False`) that a text begins with."""
        said = truth(text)
        if said is None:
            return None
        same = [i for i, option in enumerate(self.texts) if truth(option) == said]
        return self.letters[same[0]] if len(same) == 1 and len(self.folded[same[0]]) < 6 else None

    def mentioned(self, text: str) -> list[tuple[int, str]]:
        """(position, letter) of options that a text mentions; the longest where they nest."""
        folded = f" {option_text(text)} "
        found: list[tuple[int, int, str]] = []
        for letter, option in zip(self.letters, self.folded, strict=False):
            if not option:
                continue
            pattern = re.compile(rf"(?<![\w.\\^]){re.escape(option)}(?![\w^]|\.\d)")
            found += [(m.start(), m.end(), letter) for m in pattern.finditer(folded)]
        kept = [
            (start, letter)
            for start, end, letter in found
            if not any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in found)
        ]
        return sorted(kept)

    def denying(self, text: str) -> set[str]:
        """Letters of the options that a text mentions and that deny something themselves."""
        said = {letter for _, letter in self.mentioned(text)}
        return {each for each in said if _DENIED.search(self.texts[ord(each) - 65])}


def _same(comparer: Comparer, one: Node, other: Node) -> bool:
    try:
        return comparer.same(one, other)
    except (Unreadable, TooBig):
        return False


def _node(text: str) -> Node | None:
    try:
        return read(text)
    except (Unreadable, TooBig):
        return None


_LETTERED = re.compile(r"^\s*\(?([A-Za-z])\s?[).:、]\s*(?=\S)")


def _bare(texts: Sequence[str]) -> list[str]:
    """Texts without their letters, if all begin with the letter of their place."""
    cleaned = [clean(text).strip() for text in texts[:26]]
    marks = [_LETTERED.match(text) for text in cleaned]
    lettered = len(cleaned) > 1 and all(
        mark and mark[1].upper() == chr(65 + i) for i, mark in enumerate(marks)
    )
    return [
        text[mark.end() :] if lettered and mark else text
        for text, mark in zip(cleaned, marks, strict=True)
    ]


@lru_cache(maxsize=2048)
def options(texts: tuple[str, ...]) -> Options | None:
    """The options of a question, prepared once; None without choices."""
    return Options(texts) if texts else None


# --- naming an option -----------------------------------------------------------------------

_NAME = (
    r"(?:(?:the\s+)?(?:correct\s+)?"
    r"(?:option|choice|answer|letter|statement|image|figure|选项)\s*[:：]?\s*)?"
)
_FIRST = re.compile(
    rf"^{_NAME}(?:[(\[{{<（【]\s*(?P<in>[A-Za-z])\s*[)\]}}>）】]|(?P<out>[A-Za-z])(?![A-Za-z0-9'’+#=^_*$\\&]))",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"^(?P<said>(?:the\s+)?(?:option|choice|number|no\.?|#)\s*)?\(?(?P<n>\d{1,2})\)?[.)]?$",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[,;.:]?\s*(?:[(（]|\b(?:because|since|as|due\s+to|so|which|where|when|given|based|not|rather|instead|although|but|while|with|from|"
    r"meaning|i\.e|(?:it|they|this)\s+(?:can|is|was|could)|that\s+is|is\s+(?:the\s+)?(?:correct|right|best|most|true))\b|不|因为|。|；|，|—|–)",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"^\W*(?:(?:would\s+be\s+wrong|is|are|was|seems|looks|would\s+be)\s+(?:also\s+|clearly\s+|obviously\s+)?(?:not\b|wrong|incorrect|false|too\b|impossible|ruled|out\b)"
    r"|isn['’]?t|is\s*n['’]?t|can(?:not|['’]t)|can\s+be\s+(?:ruled|eliminated|excluded)|是?(?:错|不对|不正确)|不(?!是\s*[A-Z]))",
    re.IGNORECASE,
)
_AGAIN = re.compile(
    r"^\W{0,3}(?:and|or|&|/|,|和|或|及|、)?\s*[(\[]?([A-Z])[)\]]?(?=$|[\s,.):;/、，。])(?!\s+[a-z])"
)
_OTHER = re.compile(r"(?:^|[\s,;(/])[(]?([A-Z])\s?[).:](?=\s|$)")
_JOINED = re.compile(r"\b(?:and|or)\s+[(]?(?:option\s+)?([A-Z])[)]?(?=\W*$|[,.;])")
_DENIED = re.compile(r"\b(?:not|no|neither|nor|never|cannot)\b|n['’]t\b", re.IGNORECASE)
RETRACTED = re.compile(
    r"[.,;:!?]\s*(?:wait|actually|no\s*[,:.]|no wait|hmm|sorry|correction|scratch that"
    r"|i made|or rather)"
    r"|\bmistake\b|\bonly if\b|\bunlikely\b|[(（]\s*(?:wrong|incorrect)"
    r"|^(?:(?!because|since|\bas\b).){0,60}?\bbut\b",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"^(?:either|neither|both|not|any|all of|none of|unknown|cannot|can't|n/a)\b", re.IGNORECASE
)
_ASIDE = re.compile(
    r"(?:[(（]\s*(?:option\s+|choice\s+)?([A-Z])\s*[)）]"
    r"|\b(?:option|choice|answer|选项)\s*[*(]{0,2}([A-Z])(?![A-Za-z]))"
)


_AGAINST = re.compile(
    r"\b(?:not|than|instead\s+of|unlike|whereas|while)\s+(?:the\s+)?\W*$", re.IGNORECASE
)


def named(candidate: str, choices: Options | None) -> Named:
    """The one option that an answer names: by letter, by text or by number.

    `B`, `(b)`, `B. a dog`, `Option B`, `a dog`, `option 2`; not `A dog` (an article), not
    `A or B`, and no letter that the question does not have.
    """
    text = words(candidate)
    text = (
        re.sub(r"['\"”’]+$", "", text).strip() if text.count("'") + text.count('"') == 1 else text
    )
    if not text:
        return NOTHING
    if RETRACTED.search(text):
        return SEVERAL
    letter, rest = _letter(text, choices)
    if letter is None:
        letter, rest = _letter(leadless(text), choices)
    if choices:
        whole = choices.match(text)
        if whole and not re.fullmatch(r"\W*[A-Za-z]\W*", text):
            return Named((whole,))
    if letter:
        return _judged(letter, rest, choices)
    if _UNDECIDED.match(text) and not choices:
        return NOTHING
    if choices:
        said = None if _DENIED.search(text) else predicate(text)
        for each in (*variants(text), *(variants(said) if said else ())):
            found = choices.match(each) or choices.truth(each)
            if found:
                beside = set() if _DENIED.search(text) else _beside(text)
                return Named((found,)) if not beside or found in beside else SEVERAL
        number = _NUMBERED.match(text)
        if number and (number["said"] or not any(choices.nodes)):
            at = int(number["n"]) - 1
            return Named((choices.letters[at],)) if 0 <= at < len(choices) else NOTHING
    aside = _beside(text)
    if len(aside) == 1 and not _UNDECIDED.match(text):
        letter = aside.pop()
        return Named((letter,)) if _possible(letter, choices) else NOTHING
    return SEVERAL if len(aside) > 1 else NOTHING


def _beside(text: str) -> set[str]:
    """Letters that stand beside an answer's text: `9 cm (option C)`."""
    return {
        match[1] or match[2]
        for match in _ASIDE.finditer(text)
        if not _AGAINST.search(text[: match.start()])
    }


def _possible(letter: str, choices: Options | None) -> bool:
    return letter in choices.letters if choices else True


def _letter(text: str, choices: Options | None) -> tuple[str | None, str]:
    """The letter that an answer begins with, and what follows it."""
    match = _FIRST.match(text)
    if match is None:
        return None, text
    inside, outside = match["in"], match["out"]
    rest = text[match.end() :]
    lead = match.end() - len(inside or outside) > 2
    if outside:
        following = rest.lstrip("*_` ")
        if outside.islower() and not (
            lead or not following or (following[0] in ".):：" and rest[:1] in ".):：")
        ):
            return None, text
        if outside.islower() and rest[:1] == "." and rest[1:2].isalpha():  # "e.g."
            return None, text
        if rest[:1] == "-" and rest[1:2].isalpha():  # "T-rex"
            return None, text
        if re.match(r"\s+(?:or|and)\s+\(?[A-Z]\b", rest):
            return outside.upper(), rest.strip()
        if outside in "AI" and re.match(r"\s+[a-z]", rest) and not lead:
            own = choices and outside in choices.letters and choices.match(rest.strip())
            if own != outside and not re.match(r"\s+(?:because|since|is|as|due|which|for)\b", rest):
                return None, text
        if outside == "I" and re.match(r"\s*['’]", rest):
            return None, text
    if re.match(r"\s*[*+^/=]\s*\d", rest):  # `E*2` is a product
        return None, text
    letter = (inside or outside).upper()
    return letter, rest.lstrip(" \t*_`.):：,，;、-–—>]").strip()


def _judged(letter: str, rest: str, choices: Options | None) -> Named:
    """A letter with what follows it: its text, a reason, another letter, or its rejection."""
    if not _possible(letter, choices):
        return NOTHING
    if not rest:
        return Named((letter,))
    if choices:
        own = choices.folded[ord(letter) - 65]
        folded = option_text(rest)
        if own and (folded == own or folded.startswith(own + " ")):
            return Named((letter,))
        other = choices.match(rest) or choices.match(_REASON.split(rest, maxsplit=1)[0])
        if other and other != letter:
            return SEVERAL
        if other:
            return Named((letter,))
    if _REJECTED.match(rest):
        return NOTHING
    again = _AGAIN.match(rest)
    if again and again[1] != letter and _possible(again[1], choices):
        return SEVERAL
    clause = _REASON.split(rest, maxsplit=1)[0]
    others = {
        match[1] for pattern in (_OTHER, _JOINED) for match in pattern.finditer(clause.rstrip(" ."))
    }
    if any(each != letter and _possible(each, choices) for each in others):
        return SEVERAL
    return Named((letter,))


_LAST_CLAUSE = re.compile(
    r"\s*(?:[,;:]\s*|\s)"
    r"(?:because|since|as|due to|so|which|where|given|based on|i\.e\.?,?|meaning)\s.*$"
    r"|,\s*(?:and\s+|so\s+)?not\s.*$|;.*$"
    r"|,?\s+(?:rather\s+than|instead\s+of|unlike|whereas|while)\s.*$|\s*[(（].*$|\s+[-–—]\s.*$|[。；].*$",
    re.IGNORECASE | re.DOTALL,
)
SENTENCE = re.compile(r"(?<=[^A-Z\s])[.!?]\s+(?=[A-Z(\\$*\"“])")


def variants(text: str) -> list[str]:
    """An answer's readings: as it stands, its first sentence, that without its reason."""
    first = SENTENCE.split(text, maxsplit=1)[0]
    short = _LAST_CLAUSE.sub("", first)
    made = [text, first, short]
    made += [leadless(each) for each in made]
    return [each for each in dict.fromkeys(made) if each.strip()]


_SEPARATORS = re.compile(r"\s*(?:[,;、，；&/\n]|\band\b|和|及|与)\s*")
_RUN = re.compile(r"[A-Z]{2,10}")


def several(candidate: str, choices: Options | None) -> Named:
    """All options that an answer names: `A and C`, `A, C`, `AC`, `A. a dog; C. a cat`."""
    text = words(candidate)
    text = re.sub(
        r"^(?:options?|choices?|answers?)\s*:?\s+(?=[A-Z(])", "", text, flags=re.IGNORECASE
    )
    text = re.sub(r"\bboth\b|(?<=[A-Z*)])\s+are\s.*$", "", text, flags=re.IGNORECASE)
    text = text.strip(" []{}.")
    text = re.sub(r"\)\s*\((?=[A-Z]\))", "), (", text)
    text = re.sub(r"[\"'](\(?[A-Z]\)?)[\"']", r"\1", text)
    run = _RUN.fullmatch(text)
    if run and len(set(text)) == len(text) and all(_possible(letter, choices) for letter in text):
        return Named(tuple(sorted(text)))
    if re.fullmatch(r"[A-Z](?:\s+[A-Z])+", text):
        text = ",".join(text.split())
    letters: set[str] = set()
    for piece in (piece for piece in _SEPARATORS.split(text) if piece.strip()):
        found = named(piece, choices)
        if len(found.letters) != 1:
            whole = named(text, choices)
            return whole if whole.letters else found
        letters.add(found.letters[0])
    return Named(tuple(sorted(letters))) if letters else NOTHING
