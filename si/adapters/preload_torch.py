"""What workers of the transformers engine need, imported once in the fork server."""
