"""Whether a target that lies somewhere is what its plan writes."""
