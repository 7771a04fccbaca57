"""Batches: several jobs that are submitted as one."""
