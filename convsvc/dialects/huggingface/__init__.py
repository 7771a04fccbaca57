"""Hugging Face directories: config.json and weights in safetensors or `.bin` files. Names come from the family's own rows."""
