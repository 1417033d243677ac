"""How an artefact is named: its spec, stage key and address.

A stage's key is the SHA-256 of everything that determines its output, so two runs that would
compute the same thing find each other's artefacts.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from si.errors import ArtifactDamaged
from si.store.port import Store

T = TypeVar("T")

FOLDERS = {"synth": "data", "import": "data", "fetch": "policies"}


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, no NaN."""
    # Keys become strings before they are sorted: 10 sorts after 9, but "10" before "9".
    value = json.loads(json.dumps(value, allow_nan=False))
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a digest over itself."""
    return record | {"digest": digest(record)}


@dataclass(frozen=True, slots=True)
class Ref:
    """How stages refer to a committed artefact: by its address and content digest."""

    address: str
    content: str


@dataclass(frozen=True)
class Spec:
    """A stage to do, or done. Only `stage`, its schema version, `settings`, `params` and the
    inputs' content digests make its key; addresses and the number of shards follow from them.

    Attributes:
        settings: the recipe fields that the stage reads, and no others.
        params: what the loop hands in: iteration, round, k, slice.
        inputs: artefacts that it reads, by role.
        schema: the stage's schema version; it rises when the output changes for equal inputs, so
            that what was stored stays what it is and new runs compute their own.
    """

    stage: str
    name: str
    settings: Mapping[str, Any]
    params: Mapping[str, Any]
    inputs: Mapping[str, Ref]
    shards: int = 1
    schema: int = 1

    @property
    def key(self) -> str:
        """SHA-256 (hex) that identifies what this stage computes."""
        return digest(
            {
                "stage": self.stage,
                "schema": self.schema,
                "settings": self.settings,
                "params": self.params,
                "inputs": {role: ref.content for role, ref in self.inputs.items()},
            }
        )

    @property
    def address(self) -> str:
        """`<folder>/<legible name>-<key12>`."""
        folder = FOLDERS.get(self.stage, f"pool/{self.stage}")
        return f"{folder}/{self.name}-{self.key[:12]}"

    def to_json(self) -> dict[str, Any]:
        return sealed(
            {
                "stage": self.stage,
                "schema": self.schema,
                "key": self.key,
                "name": self.name,
                "settings": self.settings,
                "params": self.params,
                "inputs": {
                    role: {"address": ref.address, "content": ref.content}
                    for role, ref in self.inputs.items()
                },
                "shards": self.shards,
            }
        )

    @classmethod
    def load(cls, store: Store, address: str) -> "Spec":
        """Read `<address>/spec.json`.

        Raises:
            ArtifactDamaged: if the spec does not match its address.
        """

        def build(raw: dict[str, Any]) -> tuple["Spec", str]:
            spec = cls(
                stage=raw["stage"],
                name=raw["name"],
                settings=raw["settings"],
                params=raw["params"],
                inputs={role: Ref(**ref) for role, ref in raw["inputs"].items()},
                shards=raw["shards"],
                schema=raw["schema"],
            )
            return spec, spec.address

        spec, own = read_record(store, f"{address}/spec.json", build)
        if own != address:
            raise ArtifactDamaged(
                f"The spec at {address} does not match its address",
                f"expected {address}\n     got {own}",
                "If another version of si-ctl wrote it, use the version that started this run.",
            )
        return spec


def read_record(store: Store, address: str, build: Callable[[dict[str, Any]], T]) -> T:
    """Read a record, verify its digest, and return `build(record)`.

    Raises:
        ArtifactMissing: if there is none.
        ArtifactDamaged: if the digest or the format is wrong.
    """
    data = store.get(address)
    try:
        raw = json.loads(data)
        expected, got = raw.pop("digest"), digest(raw)
        if expected == got:
            return build(raw)
    except (AttributeError, KeyError, TypeError, ValueError):
        expected, got = "a sealed record", repr(data[:60])
    raise ArtifactDamaged(
        f"The record {store.url.rstrip('/')}/{address} is damaged",
        f"expected {expected}\n     got {got}",
        REPAIR,
    )


REPAIR = (
    "Restore the object from a backup or an older version, then run the same command again.",
    "Or compute the run again beside the old one: the same command with --fresh.",
)
