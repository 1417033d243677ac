"""The cases of `cases/*.yaml`: responses, their references, and what a judge must say of them.

A file is a list of groups. A group has an `id`, the `rule` that it pins, fields that hold for all
of its cases, and the lists `accept` and `reject`. An entry is a response, or `[reference,
response]`, or a mapping that overrides the group's fields. `wrap` puts each response into a frame,
at the `@`. `other` is a reference that no response in `accept` gives: each must be rejected
against it. `convention: true` marks a case about which people may differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "cases"
FIELDS = (
    "response reference kind choices tolerance units convert finish_reason profile "
    "reason extracted rule convention wrap"
).split()


@dataclass(frozen=True)
class Expected:
    """One case; `reference` is as a data file would hold it, a list meaning any of several."""

    id: str
    file: str
    rule: str
    response: str
    reference: Any
    correct: bool
    kind: str | None = None
    choices: tuple[str, ...] = ()
    tolerance: tuple[tuple[str, float], ...] = ()
    units: str = "strict"
    convert: bool = False
    finish_reason: str = "stop"
    profile: str = "strict"
    convention: bool = False
    reason: str | None = None
    extracted: str | None = None


def load(folder: Path = FOLDER) -> list[Expected]:
    """All cases, in the order of the files.

    Raises:
        ValueError: if a group has an unknown field, or two cases have one id.
    """
    cases = [
        case
        for path in sorted(folder.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())
        for case in _expand(path.stem, group)
    ]
    ids = {case.id for case in cases}
    if len(ids) < len(cases):
        raise ValueError("Two groups of cases have the same id")
    return cases


def _expand(file: str, group: dict[str, Any]) -> Iterator[Expected]:
    common = {name: value for name, value in group.items() if name in FIELDS}
    if strange := group.keys() - {*FIELDS, "id", "accept", "reject", "other"}:
        raise ValueError(f"{file}: {group.get('id')} has unknown fields {sorted(strange)}")
    lists = {name: group.get(name, []) for name in ("accept", "reject")}
    if "other" in group:
        swap = {"reference": group["other"]}
        lists["other"] = [
            (entry if isinstance(entry, dict) else {"response": entry}) | swap
            for entry in group["accept"]
        ]
    for list_name, entries in lists.items():
        for number, entry in enumerate(entries, 1):
            if isinstance(entry, list):
                entry = dict(zip(("reference", "response"), entry, strict=True))
            elif not isinstance(entry, dict):
                entry = {"response": entry}
            if strange := entry.keys() - {*FIELDS}:
                raise ValueError(f"{file}: {group['id']} has unknown fields {sorted(strange)}")
            fields = common | entry
            response = fields.pop("wrap", "@").replace("@", str(fields["response"]), 1)
            fields |= {
                "response": response,
                "choices": tuple(fields.get("choices", ())),
                "tolerance": tuple(fields.get("tolerance", {}).items()),
                "file": file,
                "id": f"{group['id']}-{list_name[0]}{number}",
                "correct": list_name == "accept",
            }
            if isinstance(fields["reference"], list):
                fields["reference"] = tuple(fields["reference"])
            yield Expected(**fields)
