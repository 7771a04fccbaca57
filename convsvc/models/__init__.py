"""What a model is: what its configuration says (facts), its table (family), its scopes and sizes, and where its layers lie."""
