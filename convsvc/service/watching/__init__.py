"""Watches: a training run's directory is looked at, and each complete iteration becomes a job, once."""
