"""Any tensors in files, with no configuration: of a model that no family describes, of part of one, of adapters alone."""
