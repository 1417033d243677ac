"""Rollouts that other tools wrote: recognised, diagnosed, re-balanced (docs/diagnose.md)."""
