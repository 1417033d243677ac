"""What every worker needs, imported once in the fork server."""
