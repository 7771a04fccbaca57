"""What a file that is not read is by its first bytes, never by its name. What is read says so itself (`known`)."""

from __future__ import annotations

_LEGACY_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # MAGIC_NUMBER of torch/serialization.py, pickled
_RESAVE = "load it with the torch that wrote it and save it again: torch.save(torch.load(path, map_location='cpu'), path)"

# first bytes, what the file is, what to do about it
_KNOWN: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the real file with `git lfs pull`"),
    (b"GGUF", "a GGUF file", "convert it to safetensors first; transformers can load it and save it again"),
    (b"\x89HDF", "an HDF5 file (TensorFlow, Keras)", "convert it to safetensors first"),
    (b"\x93NUMPY", "a NumPy file", "convert it to safetensors first"),
    (b"\x37\x7a\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"<error>", "an answer of a storage server, probably of a download that failed", "download the file again"),
    (b"<?xml", "an XML document, probably of a download that failed", "download the file again"),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first"),
    (b"<!doctype", "a web page, probably of a download that failed", "download the file again"),
    (b"<html", "a web page, probably of a download that failed", "download the file again"),
    (b"\x80", "a bare pickle, not a torch zip file", _RESAVE),
)

UNKNOWN = "of no format that convsvc knows"


def describe(head: bytes) -> tuple[str, str]:
    """What a file that begins with `head` is, and what to do about it. Pure.

    >>> describe(b"GGUF....")[0]
    'a GGUF file'
    """
    for start, what, do in _KNOWN:
        if head.startswith(start) or (start[:1] == b"<" and head.lstrip().lower().startswith(start)):
            return _pickle(head) if start == b"\x80" else (what, do)
    if head[257:262] == b"ustar":
        return "a tar file, as torch wrote before 0.1.10, or an archive", _RESAVE
    return _unfinished(head)


def _pickle(head: bytes) -> tuple[str, str]:
    # Protocol 2 has two bytes before the number, protocol 4 a frame of nine more.
    return ("a torch file of before 1.6 (not a zip)" if _LEGACY_TORCH in head[:32] else "a bare pickle, not a torch zip file"), _RESAVE


def _unfinished(head: bytes) -> tuple[str, str]:
    if head[:1] == b"{":
        return "a JSON file", "fetch the file itself: the name is that of weights"
    if not head.strip(b"\0"):
        return "a file that begins with zeros: its download was not completed", "download the file again"
    return UNKNOWN, "check that the file is what it should be and was copied completely"
