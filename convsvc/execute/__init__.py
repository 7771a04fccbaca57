"""Runs a plan's tasks: bounded buffers, strided copies, positioned writes, digests, resume marks, verification."""
