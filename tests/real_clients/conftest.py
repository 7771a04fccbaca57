"""What pytest does not collect here: programs that run in processes of their own, as importing Megatron takes seconds and warns."""

collect_ignore = [
    "fsdp_package_rank.py",
    "megatron_dist_rank.py",
    "megatron_fsdp_rank.py",
    "megatron_fsdp_train_rank.py",
    "megatron_pipelines.py",
    "megatron_rank.py",
    "megatron_te.py",
    "megatron_train_rank.py",
]
