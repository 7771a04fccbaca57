"""What is Megatron's and not one framework's: rank grid, tables, rank files, saved args."""
