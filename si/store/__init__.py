"""Storage: what an artefact is called, how it commits, where it lies."""
