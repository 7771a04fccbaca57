"""NVIDIA's Megatron-LM: distributed checkpoints (torch_dist) of global keys, whatever layout they were saved from."""
