"""Building blocks of model families: the logical tensors of one mechanism, and the rows Hugging Face keeps them in.

Logical tensors bear Megatron's names, relative to their layer; rows Hugging Face's, relative to the layer's prefix. Dialects refer
to the same logical tensors, so a family says nothing about any framework.

A block has functions that find its axes' sizes in a configuration, and says in `saved_args(model, facts)` what a checkpoint's saved args
have to say of them, for training and for the way back: Megatron's names, beside Hugging Face's where they are another. Every module of
this package is looked at; a model that has not the block's axes has nothing of its args.
"""
