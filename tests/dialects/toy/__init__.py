"""A framework that nobody has: how one is brought to convsvc from outside. The worked example of docs/adding-a-format.md.

Its checkpoint is a directory of `words.txt` (the model's sizes, a line a word) and a file a layer, under names of its own, between
`start` and `end`. Its matrices lie [in, out], or as torch keeps them where a word says so.
"""
