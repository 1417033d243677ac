"""Self-improvement of vision-language models with head-tail re-balancing."""

__version__ = "0.1.0"
