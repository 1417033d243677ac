"""Storage: how artefacts are named, committed and read, in a folder or a bucket."""
