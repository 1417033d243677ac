"""What marks an answer: one pattern with a named group for each rule, and what is not a mark."""

import re

_M = r"[*_`\"')\]}]{0,4}"  # closing markup
_BE = (
    r"(?:is|are|was|were|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be"
    r"|comes?\s+out\s+to\s+be|equals)"
)
_FOR = r"(?:\s+(?:to|for|of|in|among|from|here|below|above)(?![a-zA-Z])[^.\n:=?!]{0,70}?)"
_NOTE = r"(?:\s{0,2}\([^()\n]{1,40}\))"
_WHICH = r"(?:option|choice|letter|statement|selection|alternative)s?"
_RIGHT = (
    r"(?:correct|right|best|final|true|proper|appropriate|accurate|suitable|valid|selected|chosen)"
)
_LETTER = r"[*_`\"'(\[]{0,4}(?-i:[A-Z])[*_`\"')\]]{0,4}"
MARK = re.compile(
    rf"""
    (?P<tag><(?:answer|final_answer|conclusion)>)
  | (?P<glm_box><\|begin_of_box\|>)
  | (?P<boxed>\\(?:boxed|fbox)(?![a-zA-Z]))
  | (?P<json>["'](?:final[_ ]?)?answer["']\s{{0,3}}:)
  | (?P<hash>^\#{{4}}[ \t]{{0,3}}(?=\S))
  | (?P<heading>^[\#*_ \t]{{0,8}}(?:final|the|correct)?[ ]?answer[*_ \t]{{0,6}}$)
  | (?P<answer>\bans\.?\s{{0,2}}[:：=]|^[ \t*]{{0,4}}ans\.\s{{1,3}}(?=\S)
    |\banswers?{_M}
      (?:{_NOTE}?{_M}\s{{0,4}}(?:[:：=](?![=])|->|→|⇒|(?<=\s)[-–—](?=\s))
        |(?:{_NOTE}|{_FOR})?{_M}\s{{1,4}}(?:therefore\s|thus\s|then\s)?{_BE}(?![a-zA-Z])(?:\s{{0,3}}[:：])?
        |{_FOR}{_M}\s{{0,3}}[:：]))
  | (?P<option>\b{_RIGHT}\s{{1,3}}{_WHICH}{_M}
      (?:\s{{0,3}}[:：]|(?:{_NOTE}|{_FOR})?{_M}\s{{1,4}}{_BE}(?![a-zA-Z])(?:\s{{0,3}}[:：])?)
    |^[ \t*_#]{{0,6}}{_WHICH[:-2]}{_M}\s{{0,2}}[:：]
    |(?<=[.;!]\s)(?:option|choice)\s{{0,2}}[:：](?=\s{{0,2}}{_LETTER}[.\s]{{0,2}}$)
    |\b(?:which|that|this|it)\s(?:is|corresponds\sto|matches|matches\swith)\s(?=(?:option|choice|answer)\s{_LETTER}(?![a-zA-Z]))
    |\b(?:correspond(?:s|ing)?|match(?:es|ing)?|points?)\s(?:to|with)\s(?=(?:option|choice|answer)\s{_LETTER}(?![a-zA-Z]))
    |\b(?:I|we)(?:['’](?:d|ll)|\swould|\swill)?\s(?:choose|select|pick|go\swith)\s(?=(?:(?:option|choice|answer)\s)?{_LETTER}(?![a-zA-Z'’])))
  | (?P<named>\b(?:option|choice|answer|statement)\s{_LETTER}(?![a-zA-Z])[^.,;\n?]{{0,60}}?
      \s(?:is|would\sbe)\s(?:therefore\s|thus\s|clearly\s)?(?:the\s)?
      (?:most\s)?{_RIGHT}(?![a-zA-Z])
    |\b(?:both|options|choices|answers|statements)\s{_LETTER}(?:(?:,|,?\s(?:and|&))\s{_LETTER}){{1,8}}
      \sare\s(?:both\s|all\s)?(?:the\s)?{_RIGHT}(?![a-zA-Z])
    |(?:(?<=[\n.:;,!]\s)|(?<=\n)|\A|(?<=so\s)|(?<=thus\s)|(?<=therefore\s)|(?<=therefore,\s)|(?<=hence\s)
        |(?<=believe\s)|(?<=think\s))(?!I\s(?!is\b|would\b))
      (?:[*_]{{0,2}}\([A-Za-z]\)[*_]{{0,2}}|[*_]{{0,2}}(?-i:[A-Z])[*_).:]{{0,3}})
      (?:(?:\s[^.\n?]{{1,60}}?)?\s(?:is|would\sbe)\sthe|(?<![IA])\sis)\s(?:most\s)?{_RIGHT}(?![a-zA-Z]))
  | (?P<chinese>(?:最终|正确|最后)?的?答案(?:应该|应|就|便)?(?:[是为选][：:]?|[：:]|】[：:]?)
    |正确的?(?:选项|答案|选择)(?:应该|应|就)?(?:[是为][：:]?|[：:])
    |(?:故|因此|所以|应该?|综上|可)，?选(?:择)?(?:项)?[：:]?|故答案[为是][：:]?
    |(?:本题|此题)选(?:择)?[：:]?
    |(?<![可备挑不])选(?:择|项)?[：:]?(?=\s{{0,2}}[(（]?[A-J](?![a-zA-Z])))
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
# Every mark has one of these in it; marks are looked for around them alone, which is what makes
# finding them quick in a long response.
TRIGGERS = (
    *(
        "answer",
        "ans:",
        "ans.",
        "ans =",
        "ans :",
        "boxed",
        "fbox",
        "option",
        "choice",
        "letter",
        "statement",
        "selection",
    ),
    *(
        "alternative",
        "####",
        "答案",
        "选",
        "begin_of_box",
        "conclusion",
        "choose",
        "select",
        "pick",
    ),
    *("is correct", "is the correct", "is right", "is the right", "is the best", "is best"),
    *("is the most", "is most", "be correct", "be the correct", "be the right", "be the best"),
    *("are correct", "are true", "are right", "are valid", "are both", "are all", "are the"),
    *("go with", "is the true", "is the final", "is true", "is appropriate", "is valid"),
)
BEFORE, BEHIND = 120, 200  # characters around a trigger in which its mark lies
# What follows a mark and is a remark about an answer, or the prompt's own words.
REMARK = re.compile(
    r"""(?:also\s|indeed\s|then\s|thus\s|therefore\s|clearly\s)*(?:
      (?:correct|right|wrong|incorrect|reasonable|valid|consistent|confirmed|verified|obvious|clear|obtained|found|as\sfollows
        |based|supported|determined|explained|given\s(?:by|in|as|above|below)|expected|needed|required|asked|unique|derived
        |not\s(?:listed|given|shown|among|clear)|in\sthe|in\sa|in\sthis|what|one\sof|that\s(?:one|which)|shown|calculated)(?![a-zA-Z=:])
      |(?:the\s|an?\s)?(?:option(?:'s)?\s|correct\s|final\s|single\s|exact\s|numeric(?:al)?\s|short\s|one\s)*
        (?:letter|number|value|integer|option|choice|word|phrase|result)
        (?:\s(?:only|itself|of\s(?:the|your)\s\w+|from\s.{0,60}|with.{0,60}|as\s.{0,40}|in\s.{0,40}))?\s*[.!]?\s*$
      |\$?LETTER|\$?NUMBER|[\[(](?:your|the|final|insert|short)\s(?:final\s)?(?:answer|choice|letter|number|response|option)
      |X\s\(|\.{3}|…|<[a-z_ ]+>\s*$|\{[a-z_ ]{3,}\}\s*$|\[[a-z_ ]{3,}\]\s*$
    )""",
    re.VERBOSE | re.IGNORECASE,
)
