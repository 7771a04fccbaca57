"""Where a target is made: its private directory, its lock and fences, what is written beside the tensors, and how it is published."""
