"""What is packed for a GPU machine without a network: pins, and libraries cut to one GPU."""

import struct

import pytest

from tests.gpu.offline import pack
from tests.gpu.offline.fatbin import CODE, ENTRY, HEADER, MAGIC, PTX, prune


def fat_binary(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of (kind, architecture, code)."""
    body = b""
    for kind, architecture, code in entries:
        head = ENTRY.pack(kind, 1, 64, len(code)).ljust(28, b"\0")
        body += (head + struct.pack("<I", architecture)).ljust(64, b"\0") + code
    return HEADER.pack(struct.unpack("<I", MAGIC)[0], 1, HEADER.size, len(body)) + body


def test_code_for_other_gpus_is_blanked():
    """Code for other architectures, and PTX where there is code, become zeros of equal length."""
    mixed = fat_binary((CODE, 80, b"eighty"), (CODE, 90, b"ninety"), (PTX, 90, b"ptx"))
    data = bytearray(b"before" + mixed + b"after")
    length = len(data)
    assert prune(data, {90}) == len(b"eighty") + len(b"ptx")
    assert len(data) == length and data.startswith(b"before") and data.endswith(b"after")
    assert b"ninety" in data and b"eighty" not in data and b"ptx" not in data


def test_ptx_stays_where_nothing_else_serves():
    """A fat binary without code for the GPU keeps its PTX, which the driver can compile."""
    data = bytearray(fat_binary((CODE, 80, b"eighty"), (PTX, 80, b"ptx")))
    prune(data, {90})
    assert b"ptx" in data and b"eighty" not in data


def test_the_magic_bytes_alone_are_left():
    """Bytes that only look like a header stay as they are; so does a header cut off by the end."""
    for text in (b"x" + MAGIC + b"y" * 40, b"x" + MAGIC, MAGIC * 3):
        data = bytearray(text)
        assert prune(data, {90}) == 0 and data == text


def test_everything_packed_is_pinned_with_hashes():
    """Each package of the pack stands in requirements/engines-gpu.txt, and brings its hashes."""
    names = (pack.OURS + pack.FOR_VLLM).split()
    lines = pack.pins(pack.REQUIREMENTS.read_text(), names)
    assert lines.count("==") == len(names)
    for part in lines.strip().split("\n\n") or [lines]:
        assert "--hash=sha256:" in part
    with pytest.raises(SystemExit, match="does not pin no-such-package"):
        pack.pins(lines, ["no-such-package"])
