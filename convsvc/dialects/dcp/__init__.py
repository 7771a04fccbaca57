"""torch.distributed.checkpoint (DCP): Hugging Face names, perhaps under a prefix, cut anywhere, in `.distcp` files or safetensors."""
