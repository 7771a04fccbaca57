"""integrity.json, which Megatron core 0.18 and later save with --verify-integrity: the SHA-256 of every other file of the directory.

    {"algorithm": "sha256", "files": {"__0_0.distcp": "9f86d0...", ...}}    dist_checkpointing/validation.py, save_integrity_manifest

Files of words are looked at whenever it is there; those of weights, which are read once more for it, where the job asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from convsvc.dialects.json_files import read_json
from convsvc.errors import SourceError
from convsvc.formats.dcp.records import METADATA
from convsvc.formats.regular_file import open_regular
from convsvc.notes import Note
from convsvc.roots import RootedPath

INTEGRITY = "integrity.json"
ALGORITHM = "sha256"
WORDS = (METADATA, "metadata.json", "common.pt")
CHUNK_BYTES, THREADS, SHOWN = 1 << 20, 4, 12


def check_integrity(folder: RootedPath, *, all_files: bool) -> tuple[Note, ...]:
    """Files are what their hashes say: those of words, or `all_files`. A note where the others were not looked at.

    Raises SourceError naming those that are not, or where there is no list of hashes though all shall be checked; StorageError.
    """
    if not (folder / INTEGRITY).is_file():
        if all_files:
            raise SourceError(
                f"{folder} has no {INTEGRITY}, and source.verify_integrity asks for it",
                do="leave verify_integrity out, or have Megatron save the checkpoint with --verify-integrity",
            )
        return ()
    said = _hashes(folder)
    looked_at = said if all_files else {name: said[name] for name in WORDS if name in said}
    _check(folder, looked_at)
    if all_files:
        return ()
    text = f"{INTEGRITY} has the hashes of {len(said)} files: {len(looked_at)} without weights were checked; source.verify_integrity: all"
    return (Note("advice", text),)


def _hashes(folder: RootedPath) -> Mapping[str, str]:
    document = read_json(folder / INTEGRITY)
    files, algorithm = document.get("files"), document.get("algorithm", ALGORITHM)
    if algorithm != ALGORITHM:
        raise SourceError(f"{folder / INTEGRITY} has hashes of {str(algorithm)[:40]!r}, known is {ALGORITHM!r}")
    if not isinstance(files, dict) or not all(isinstance(each, str) for each in files.values()):
        raise SourceError(f"{folder / INTEGRITY} has no hashes by file names", do="save the checkpoint again, or remove it")
    strange = [name for name in files if "/" in name or name in ("", ".", "..", INTEGRITY)]
    if strange:
        raise SourceError(f"{folder / INTEGRITY} names what is no file beside it", facts=[name[:200] for name in strange[:SHOWN]])
    return files


def _check(folder: RootedPath, wanted: Mapping[str, str]) -> None:
    there = set(folder.names())
    faults = [f"{name}: is not there" for name in wanted if name not in there]
    with ThreadPoolExecutor(THREADS, "convsvc-hash") as pool:
        found: Iterable[tuple[str, str]] = pool.map(lambda name: (name, _hash(folder / name)), [name for name in wanted if name in there])
        faults += [f"{name}: expected {wanted[name][:16]}..., found {hexed[:16]}..." for name, hexed in found if hexed != wanted[name]]
    if faults:
        raise SourceError(
            f"{len(faults)} files of {folder} are not what {INTEGRITY} says",
            facts=faults[:SHOWN],
            do="copy the checkpoint again: these files were changed or damaged since it was saved",
        )


def _hash(path: RootedPath) -> str:
    digest = hashlib.sha256()
    with open_regular(path, may_be_empty=True) as file:
        for start in range(0, file.size_bytes, CHUNK_BYTES):
            digest.update(file.read(start, min(CHUNK_BYTES, file.size_bytes - start), "what is hashed"))
    return digest.hexdigest()
