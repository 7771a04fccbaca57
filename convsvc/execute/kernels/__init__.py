"""What is done to bits in memory: copies, casts, dequantising, merges. No file is known here."""
