"""How bytes are values: one file a way of quantising. Each recognises its weights, says which bytes hold what, and decodes them. Pure."""
