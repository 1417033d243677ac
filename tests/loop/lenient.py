"""A verifier for policies with random weights, whose answers are noise: it calls half of them
right, and always the same ones."""

import zlib


def half(response: str, reference: str, kind: str) -> bool:
    """Right or wrong by the response's checksum."""
    return bool(response) and zlib.crc32(response.encode()) % 2 == 0
