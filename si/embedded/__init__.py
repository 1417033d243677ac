"""The embedded example: synthetic data, a tiny policy, and the policy's measured levels."""

from pathlib import Path

_HERE = Path(__file__).parent
EMBEDDED_POLICY = _HERE / "policy"
# The synthetic data sets (`data.source`), and the levels of each one's queries under that policy.
EMBEDDED_LEVELS = {
    "synth:embedded": _HERE / "levels.parquet",
    "synth:puzzles": _HERE / "levels_puzzles.parquet",
}
