"""From a transfer to steps, as numbers: what to read, what to copy, what to write where. Pure.

A glossary of "where", from the model to the disk:

    box          a range of every axis of a logical tensor
    view         a box with the strides it has in stored tensors, and every place where it lies (plan.records)
    place        a stored tensor, by number, and the element at which a view begins in it
    tile         the box that is done at a time; a step is one, or a part of one
    range        elements of one stored tensor that are moved together; a run is what of it is without a gap
    part         what of a buffer holds the ranges of one stored tensor (BufferPart); a spot is where a view begins in it
    read, write  a range in bytes: file, file offset, size, place in the buffer
"""
