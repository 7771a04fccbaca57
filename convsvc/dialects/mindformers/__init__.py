"""MindSpore Transformers (mindformers): safetensors under Megatron's names, whole or cut over ranks, as MindSpore saves them."""
