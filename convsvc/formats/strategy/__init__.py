"""MindSpore's strategy files: how each parameter is cut over a pipeline stage's ranks. Binary (proto2, without protobuf) or JSON."""
