"""Keyed randomness: every random choice depends on what it is for, never on what came before.

Two calls with equal keys give equal numbers in any process, in any order, so a
shard computed again, or by another worker, draws what it would have drawn
(docs/method.md, "Randomness").
"""

import hashlib
import json
import random

Key = str | int | None


def keyed_seed(*key: Key) -> int:
    """A 63-bit seed for `key`, the same on every machine and Python version."""
    packed = json.dumps(key, ensure_ascii=True, separators=(",", ":")).encode()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


def keyed_rng(*key: Key) -> random.Random:
    """A generator of its own for `key`; cheap enough to make one for every query."""
    return random.Random(keyed_seed(*key))
