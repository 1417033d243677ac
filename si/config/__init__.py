"""Recipe (what is computed) and place (where and how wide)."""
