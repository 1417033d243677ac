"""This machine: its GPUs, its processes."""
