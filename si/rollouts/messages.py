"""Texts, numbers and conversations, out of whatever a tool wrote into a cell."""

import json
import math
from collections.abc import Mapping
from typing import Any


def as_number(value: Any) -> float | None:
    """A value as a number; truth values, also as text, are 1 and 0; None for anything else."""
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def as_text(value: Any) -> str | None:
    """A value as text; values other than texts as JSON with sorted keys; None stays None."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def message_text(value: Any) -> str | None:
    """The text of a message, or of the last one of a list of messages."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, Mapping):
        value = value.get("content", value.get("text", value))
    if isinstance(value, list):  # the parts of a message
        value = "".join(part.get("text") or "" for part in value if isinstance(part, Mapping))
    return as_text(value)


def several_responses(value: Any) -> list[str] | None:
    """The responses in a cell that holds several: texts, or outputs with a `text` each (vLLM).

    Returns:
        None if it holds one response: a text, a message, or messages.
    """
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(each, str) for each in value):
        return value
    outputs = all(
        isinstance(each, Mapping)
        and isinstance(each.get("text"), str)
        and not {"role", "content", "type"} & each.keys()  # a message, or a part of one
        for each in value
    )
    return [each["text"] for each in value] if outputs else None


def holds_several(value: Any) -> bool:
    """Whether a cell holds several responses."""
    return several_responses(value) is not None


def finish_reasons(value: Any) -> list[Any] | None:
    """Why each of several outputs (vLLM's) ended; None for responses of other layouts."""
    outputs = holds_several(value) and isinstance(value[0], Mapping)
    return [each.get("finish_reason") for each in value] if outputs else None


def prompt_and_response(value: Any) -> tuple[str | None, str | None]:
    """The prompt and the response of a conversation: its last message, and those before it.

    Args:
        value: messages, or texts that take turns; a text is a prompt without a response.

    Returns:
        The prompt as JSON messages, or as the joined texts; and the response's text.
    """
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # NeMo-RL: every value is a list of one
    if isinstance(value, str):
        return value, None
    if not isinstance(value, list) or not value:
        return None, None
    *before, last = value
    if all(isinstance(turn, str) for turn in value):
        return "".join(before), last
    return as_text([_role_and_content(turn) for turn in before]), message_text(last)


def _role_and_content(turn: Any) -> Any:
    """A message without what tools add to it, such as token ids and logs."""
    if not isinstance(turn, Mapping):
        return turn
    role = {"human": "user", "gpt": "assistant"}.get(str(turn.get("from")), turn.get("from"))
    return {
        "role": turn.get("role", role),
        "content": turn.get("content", turn.get("value")),
    }
