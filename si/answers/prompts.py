"""Whether a prompt asks for a form of answer that the strict profile reads."""

import re

_FORMS = re.compile(
    r"\\boxed|<answer>|<\|begin_of_box\|>|####|answers?\W{0,4}\s*[:：=]|answer\s+is\b|答案|[\"']answer[\"']"
    r"|(?:correct|right)\s+(?:option|choice)\s*(?:is|:)",
    re.IGNORECASE,
)
ADVICE = (
    "The prompt asks for no form of answer, and the verifier reads answers after a mark only: "
    "let sampling.prompt_template ask for `Answer: X` or \\boxed{X}, or set verify.profile to "
    "lenient."
)


def asks_for_form(prompt: str) -> bool:
    """Whether a prompt names a mark after which answers are read: `Answer:`, a box, a tag."""
    return _FORMS.search(prompt) is not None
