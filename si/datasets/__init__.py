"""Anybody's questions and pictures as a data set: `data import`, `data inspect` (docs/data.md)."""
