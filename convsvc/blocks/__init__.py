"""Building blocks of model families: the logical tensors of one mechanism, and the rows Hugging Face keeps them in.

Logical tensors bear Megatron's names, relative to their layer; rows Hugging Face's, relative to the layer's prefix. Dialects refer
to the same logical tensors, so a family says nothing about any framework.
"""
