"""The recipe (what is computed) and the place (where, and on how many machines)."""
