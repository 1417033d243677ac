"""What there is to know about a run: its record, its status, its costs, its limits."""
