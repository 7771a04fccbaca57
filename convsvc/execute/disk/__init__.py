"""Descriptors: positioned reads and writes, around the page cache where they are large, and what the errors of a disk mean."""
