"""Clusters: what runs a stage's workers."""
