"""Rollouts of other tools: reading, diagnosing, re-balancing and verifying them."""
