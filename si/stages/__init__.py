"""The stages: what one pod does."""
