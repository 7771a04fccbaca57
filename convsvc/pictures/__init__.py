"""Pictures of checkpoints and plans: which file holds which part of which tensor, as data that a page shows."""
