"""Which rows are train, dev and test."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from si.errors import RecipeError
from si.records import SPLITS

SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Splits:
    """Which split a row belongs to.

    Attributes:
        every: the one split of all rows, if not None.
        names: names in the source -> our splits.
        shares: split -> share. Rows of these splits, and of none, are dealt by their images;
            if empty, rows of no split are dealt by `SHARES`.
    """

    every: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Splits":
        """`train`, `testmini=test,val=dev`, `train=80,dev=10,test=10`, or both kinds mixed.

        Raises:
            RecipeError: for a split that does not exist, or shares that are none.
        """
        ways = (
            "Give all rows to one split: --split test",
            "Say what names mean: --split testmini=test",
            "Deal rows by content: --split train=80,dev=10,test=10",
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
            raise RecipeError("--split deals nothing", "all shares are 0", ways)
        return cls(None, names, {name: share / total for name, share in shares.items()})

    def deals(self, split: str | None) -> bool:
        """Whether rows of this split (None: of none) are dealt by content."""
        return not self.every and (split is None or split in self.shares)

    def deal(self, split: str | None, group: bytes) -> str:
        """The split of a row, from what its source says and the digest of its images."""
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
