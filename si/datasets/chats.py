"""Conversations in the layouts of training tools: who spoke, what they said, what they showed.

Known are `role`/`content` (OpenAI, LLaMA-Factory, ms-swift), `from`/`value` (LLaVA, ShareGPT,
Qwen-VL), contents in parts, and `user`/`assistant` pairs (FineVision).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from si.datasets.row_images import BadRow

MARK = "<image>"
USER = ("user", "human")
ASSISTANT = ("assistant", "gpt", "bot", "model", "chatgpt")
_TAGGED_PATH = re.compile(r"(?:[Pp]icture[ ]\d+:\s*)?<img>(.*?)</img>\n?", re.DOTALL)
_IMAGE_KEYS = ("image", "image_url", "url", "path", "data", "bytes")


class Turn(NamedTuple):
    """What one side said; its text has an `<image>` where each of its images stands."""

    role: str
    text: str
    images: tuple[Any, ...] = ()


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns."""
    if not isinstance(value, list) or not value:
        return False
    if not all(isinstance(turn, Mapping) for turn in value):
        return False
    keys = value[0].keys()
    return "role" in keys or "from" in keys or {"user", "assistant"} <= keys


def turns_of(chat: list[Any]) -> list[Turn]:
    """The turns of a conversation in order; roles are system, user and assistant, or as written.

    Raises:
        BadRow: if a turn has no text that is understood.
    """
    made = []
    for turn in chat:
        if {"user", "assistant"} <= turn.keys():
            made += [Turn("user", *_content(turn["user"]))]
            made += [Turn("assistant", *_content(turn["assistant"]))]
            continue
        role = str(turn.get("role", turn.get("from"))).lower()
        role = "user" if role in USER else "assistant" if role in ASSISTANT else role
        made.append(Turn(role, *_content(turn.get("content", turn.get("value")))))
    return made


def _content(content: Any) -> tuple[str, tuple[Any, ...]]:
    """The text of a turn, and its images; of parts, the texts joined by line breaks."""
    if content is None:
        return "", ()
    if isinstance(content, str):
        paths = tuple(_TAGGED_PATH.findall(content))
        return _TAGGED_PATH.sub(MARK, content), paths
    if not isinstance(content, list):
        raise BadRow("question", f"a turn with {type(content).__name__} instead of text")
    texts, images = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, Mapping):
            raise BadRow("question", f"a part that is a {type(part).__name__}, not an object")
        elif isinstance(text := part.get("text"), str):
            texts.append(text)
        elif "image" in str(part.get("type", "image")):
            image = next((part[key] for key in _IMAGE_KEYS if part.get(key)), None)
            images += [] if image is None else [image]
            texts.append(MARK)
        else:
            raise BadRow("question", f"a part of the kind {str(part.get('type'))[:40]!r}")
    return "\n".join(texts), tuple(images)


def question_of(chat: list[Any]) -> str:
    """The last user turn; earlier turns stand before it as context.

    Raises:
        BadRow: if there is no user turn, or if two user turns follow each other without an answer.
    """
    turns = [turn for turn in turns_of(chat) if turn.role in ("user", "assistant")]
    users = [place for place, turn in enumerate(turns) if turn.role == "user"]
    if not users:
        raise BadRow("question", "a chat with 0 user turns instead of one")
    before = turns[: users[-1]]
    if [turn.role for turn in before] != ["user", "assistant"] * (len(before) // 2):
        raise BadRow(
            "question", f"a chat with {len(users)} user turns that do not alternate with answers"
        )
    names = {"user": "User", "assistant": "Assistant"}
    lines = [f"{names[turn.role]}: {turn.text.strip()}" for turn in before]
    last = turns[users[-1]].text
    return "\n".join([*lines, f"User: {last.strip()}"]) if lines else last


def answer_of(chat: list[Any]) -> str | None:
    """The assistant's turn after the last user turn; None if there is none."""
    turns = [turn for turn in turns_of(chat) if turn.role in ("user", "assistant")]
    return turns[-1].text if turns and turns[-1].role == "assistant" else None


def images_of(chat: list[Any]) -> list[Any]:
    """The images in a conversation, in order."""
    return [image for turn in turns_of(chat) for image in turn.images]
