"""What a run will cost, and estimate against actual (docs/how-to/costs.md)."""
