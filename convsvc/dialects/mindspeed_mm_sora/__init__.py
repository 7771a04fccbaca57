"""MindSpeed-MM's rank files of diffusion models (its `sora_model`): no args, no configuration, layers over stages, matrices over ranks."""
