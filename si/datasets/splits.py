"""Assign rows to the splits train, dev and test."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from si.errors import RecipeError
from si.records import SPLITS

SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Splits:
    """Rules that assign a row to a split.

    Attributes:
        every: the split of all rows, or None.
        names: name of a split in the source -> our split.
        shares: split -> share, summing to 1. Rows of these splits, and rows without a split, are
            distributed by their content in these shares. If empty, only rows without a split are,
            in the shares of `SHARES`.
    """

    every: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Splits":
        """The rules in the text of `--split`.

        Args:
            text: `train`; names, `testmini=test,val=dev`; shares, `train=80,dev=10,test=10`; or
                names and shares mixed.

        Raises:
            RecipeError: if it has an unknown split, or shares that sum to 0.
        """
        ways = (
            "Put all rows into one split: --split test",
            "Map names of splits: --split testmini=test",
            "Distribute rows by content: --split train=80,dev=10,test=10",
        )
        names: dict[str, str] = {}
        shares: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals and name in SPLITS and "," not in text:
                return cls(every=name)
            if re.fullmatch(r"\d+(\.\d+)?%?", value) and name in SPLITS:
                shares[name] = float(value.rstrip("%"))
            elif value in SPLITS and name:
                names[name] = value
            else:
                raise RecipeError(
                    f"--split cannot use {part!r}", f"splits: {', '.join(SPLITS)}", ways
                )
        total = sum(shares.values())
        if shares and not total:
            raise RecipeError("The shares of --split sum to 0", text, ways)
        return cls(None, names, {name: share / total for name, share in shares.items()})

    def deals(self, split: str | None) -> bool:
        """Whether rows of this split (None: without a split) are distributed by content."""
        return not self.every and (split is None or split in self.shares)

    def asks(self, split: str) -> bool:
        """Whether rows are distributed to this split."""
        return not self.every and (self.shares or SHARES).get(split, 0) > 0

    def deal(self, split: str | None, group: bytes) -> str:
        """The split of a row.

        Args:
            split: the source's, or None.
            group: the digest of the row's images: rows that share them share a split.
        """
        if self.every:
            return self.every
        if split is not None and not self.deals(split):
            return split
        at = int.from_bytes(hashlib.sha256(b"split" + group).digest()[:8]) / 2**64
        last = split or "train"
        for name, share in (self.shares or SHARES).items():
            if share:
                last = name
                if at < share:
                    break
                at -= share
        return last
