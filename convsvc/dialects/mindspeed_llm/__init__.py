"""MindSpeed-LLM: Megatron-mcore rank files, `iter_*/mp_rank_*/model_optim_rng.pt`."""
