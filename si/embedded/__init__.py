"""What a run without any outside thing is made of: synthetic data and a tiny policy."""
