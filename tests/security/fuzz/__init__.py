"""Hostile files by the million: valid ones, changed where their structure is, through every reader. Only a ConvsvcError may come out.

`python -m tests.security.fuzz --inputs 1000000 --seed 1` runs as many as wanted; CI runs fewer (`test_fuzz_readers.py`).
"""
