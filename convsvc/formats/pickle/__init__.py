"""Pickles without running them: which names may be spoken of, the machine, the reader, and the writer of what torch.save emits."""
