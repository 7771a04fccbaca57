"""torch.distributed.checkpoint on disk: `.metadata`, which says what lies where, and `.distcp` files, torch files one after the other."""
