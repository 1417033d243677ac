"""The embedded example: synthetic data, a tiny policy, and the policy's measured levels."""

from pathlib import Path

EMBEDDED_POLICY = Path(__file__).parent / "policy"
EMBEDDED_LEVELS = Path(__file__).parent / "levels.parquet"
