"""Machine code in CUDA libraries: blank what is for other GPUs, so that a library compresses well.

A library holds fat binaries, each a header and entries of machine code (for one architecture) or of
PTX, which a driver can compile for any. Layout: 16 bytes of header (magic, version, size of the
header, size of the rest), then entries of (kind, version, size of the entry's header, size of its
code), with the architecture at byte 28 of the entry.
"""

import struct

MAGIC = struct.pack("<I", 0xBA55ED50)
HEADER, ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQ")
PTX, CODE = 1, 2


def prune(data: bytearray, architectures: set[int]) -> int:
    """Blank in place all machine code for other architectures; sizes and offsets stay.

    A fat binary without code for any of `architectures` keeps its PTX.

    Returns:
        how many bytes were blanked.
    """
    blanked, at = 0, 0
    while (at := data.find(MAGIC, at)) >= 0:
        if at + HEADER.size > len(data):
            break
        _, _, header, size = HEADER.unpack_from(data, at)
        if header != HEADER.size or at + header + size > len(data):
            at += len(MAGIC)  # the bytes of the magic, but no fat binary
            continue
        entries = list(_entries(data, at + header, at + header + size))
        served = any(kind == CODE and sm in architectures for kind, sm, _, _ in entries)
        for kind, sm, start, length in entries:
            wanted = (kind == CODE and sm in architectures) or (kind == PTX and not served)
            if not wanted:
                data[start : start + length] = bytes(length)
                blanked += length
        at += header + size
    return blanked


def _entries(data: bytearray, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """(kind, architecture, start, length) of each entry's code."""
    found = []
    while start < end:
        kind, _, header, size = ENTRY.unpack_from(data, start)
        if kind not in (PTX, CODE) or header < 32:
            raise ValueError(f"an entry of kind {kind} at byte {start} is not one of a fat binary")
        (architecture,) = struct.unpack_from("<I", data, start + 28)
        found.append((kind, architecture, start + header, size))
        start += header + size
    return found
