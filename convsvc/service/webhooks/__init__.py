"""Webhooks: calls to other services when a job has ended."""
