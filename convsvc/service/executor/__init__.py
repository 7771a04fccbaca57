"""The process that takes jobs from the store and drives them, and what keeps it running."""
