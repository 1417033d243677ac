"""Event files for TensorBoard, written without TensorBoard.

Its package contains a web server, and tensorboardX imports torch if that is installed. A file of
scalars needs neither: it is a sequence of records (length, data, a masked CRC-32C of each), and a
record's data are an `Event` message of TensorFlow's `event.proto` with a few fields.

A file holds one batch and is complete or absent, so an existing file is never written again.
TensorBoard reads a folder's files in the order of their names, which start with the batch's number.
"""

import re
import struct
from collections.abc import Container
from pathlib import Path

from si.runs.trackers.port import Batch, Point, Tracked

_FILE = re.compile(r"events\.out\.tfevents\.\d{6}\.(it\d+)-(.+)")
_KEY = "run-key"


class TensorBoard:
    """`ports.Tracker`: a folder of event files for each run, in `<folder>/tensorboard/`."""

    def __init__(self, folder: Path):
        self.root = folder / "tensorboard"

    def begin(self, run: Tracked) -> Container[str]:
        """See `Tracker`. If another store's run of the same name has files here, the folder's name
        ends with the run's key."""
        self.folder = self.root / run.name
        key = self.folder / _KEY
        if key.exists() and key.read_text() != run.key:
            self.folder = self.root / f"{run.name}-{run.key[:6]}"
        self.where = f"tensorboard --logdir {self.root}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _KEY).write_text(run.key)
        found = (_FILE.fullmatch(path.name) for path in self.folder.iterdir())
        return {f"{match[1]}/{match[2]}" for match in found if match}

    def log(self, batch: Batch) -> None:
        events = [_event(batch.points[0].time if batch.points else 0.0, version="brain.Event:2")]
        events += [_point(point) for point in batch.points]
        name = f"events.out.tfevents.{batch.number:06d}.{batch.name.replace('/', '-', 1)}"
        part = self.folder / f".{name}"
        part.write_bytes(b"".join(map(_record, events)))
        part.replace(self.folder / name)

    def end(self) -> None:
        pass


def _point(point: Point) -> bytes:
    # TensorBoard groups names by the part before the first slash.
    return _event(point.time, point.step, values=dict(point.values))


# --- the format ----------------------------------------------------------------------------


def _event(
    time: float, step: int = 0, version: str = "", values: dict[str, float] | None = None
) -> bytes:
    """An `Event`: wall_time = 1, step = 2, file_version = 3, summary = 5."""
    data = b"\x09" + struct.pack("<d", time)
    if step:
        data += b"\x10" + _varint(step)
    if version:
        data += _bytes(3, version.encode())
    if values:
        # Summary: repeated value = 1, each with tag = 1 and simple_value = 2.
        said = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
            for tag, value in values.items()
        )
        data += _bytes(5, said)
    return data


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as TensorFlow's record files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_row(byte) for byte in range(256)]
