"""What a run will take, and what it took against that (docs/how-to/costs.md)."""
