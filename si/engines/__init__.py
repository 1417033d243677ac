"""Engines: samplers and trainers, and what they share."""
