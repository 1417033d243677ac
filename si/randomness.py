"""Keyed randomness: every random choice depends on what it is for, never on earlier choices.

Equal keys give equal numbers in every process and in any order. A shard that is computed again, or
by another worker, therefore draws the same numbers (docs/method.md, "Randomness").
"""

import hashlib
import json
import random

Key = str | int | None


def keyed_seed(*key: Key) -> int:
    """A 63-bit seed for `key`, the same on every machine and in every Python version.

    The upper 63 bits of the 64-bit BLAKE2b digest of the key as compact ASCII JSON.
    """
    packed = json.dumps(key, ensure_ascii=True, separators=(",", ":")).encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


def keyed_rng(*key: Key) -> random.Random:
    """A generator seeded with `keyed_seed(*key)`; cheap enough to create one for every query."""
    return random.Random(keyed_seed(*key))
