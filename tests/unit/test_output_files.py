"""Writing files for users: whole or not at all, and nothing replaced that they did not name."""

from pathlib import Path

import pytest

from si.errors import OutputError
from si.machine.files import output


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    """What another process wrote between the check and the end is refused, not lost."""
    path = tmp_path / "out.json"
    with pytest.raises(OutputError, match="exists already"), output(path) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_and_goes_again_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link failed, so nothing has the name: success would be a lie."""

    def taken(self: Path, target: Path) -> None:
        raise FileExistsError(17, "File exists", str(self))

    monkeypatch.setattr(Path, "hardlink_to", taken)
    with pytest.raises(OutputError, match="exists already"), output(tmp_path / "out") as file:
        file.write(b"ours")
    assert list(tmp_path.iterdir()) == []
