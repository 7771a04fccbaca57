"""Proofs about bytes: digests, copies that must agree, padding, regions read back, and what lies at a place that was written."""
