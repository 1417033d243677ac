"""Data sets: reading anyone's rows, importing them, opening what was imported."""
