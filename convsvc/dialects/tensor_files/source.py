"""Reading files that are nothing but tensors."""

from __future__ import annotations

from typing import Any

from convsvc.dialects.base import Source
from convsvc.dialects.checkpoint import Checkpoint, Found, SourceFile
from convsvc.dialects.files import index_files
from convsvc.dialects.huggingface.layout import lay_model
from convsvc.dialects.json_files import read_json
from convsvc.dialects.layout import Layout
from convsvc.dialects.tensor_files.job import TensorFilesSource
from convsvc.errors import JobError, SourceError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.spelling import Spelling
from convsvc.roots import RootedPath, Roots

ENDING, INDEX, CONFIG = ".safetensors", ".safetensors.index.json", "config.json"


class TensorFiles(Source):
    """What an index names, or every safetensors file of a directory, or one file."""

    name = "tensor-files"
    certainty = -1  # Hugging Face's directories are such, too

    def recognises(self, root: RootedPath) -> bool:
        return False

    def words_dir(self, source: Any) -> str | None:
        return str(source.path)

    def open(self, source: TensorFilesSource, roots: Roots) -> Checkpoint:
        """Raises SourceError where there is none, or a tensor lies in two of them; FormatError, JobError; PathRefused."""
        given = RootedPath(source.path, roots)
        paths = [given] if given.is_file() else _files(given)
        files: list[SourceFile] = []
        found: dict[tuple[str, str], Found] = {}
        spelling = Spelling(source.names or {}, source.adapter_name)
        for number, (index, file) in enumerate(index_files(paths)):
            files.append(file)
            for tensor in index.tensors:
                name = spelling.named(tensor.name) if spelling else tensor.name
                if ("", name) in found:
                    raise _twice(given, tensor.name, name, [files[found["", name].file].name, file.name])
                found["", name] = Found(number, tensor)
        if not found:
            raise SourceError(f"{given} holds no tensors")
        folder = given if given.is_dir() else None
        config = read_json(folder / CONFIG) if folder is not None and (folder / CONFIG).is_file() else {}
        return Checkpoint(str(given), tuple(files), found, Facts(config, f"{given}/{CONFIG}"))

    def layout(self, model: Model, settings: None = None) -> Layout:
        return lay_model(model)


def _files(root: RootedPath) -> list[RootedPath]:
    if not root.is_dir():
        raise SourceError(f"{root} does not exist", do="give a directory of safetensors files, or one file")
    names = root.names()
    indexes = [name for name in names if name.endswith(INDEX)]
    if len(indexes) > 1:
        raise SourceError(f"{root} has {len(indexes)} indexes: {', '.join(indexes[:5])}", do="give a directory that has one")
    chosen = _indexed(root / indexes[0]) if indexes else [name for name in names if name.endswith(ENDING)]
    missing = [name for name in chosen if not (root / name).is_file()]
    if missing or not chosen:
        what = f"lacks {len(missing)} of the files that its index names" if missing else "has no safetensors file"
        raise SourceError(f"{root} {what}", facts=missing[:5], do="fetch them" if missing else "give the directory that holds them")
    return [root / name for name in chosen]


def _indexed(index: RootedPath) -> list[str]:
    said = read_json(index).get("weight_map")
    if not isinstance(said, dict) or not all(isinstance(name, str) and name.endswith(ENDING) and "/" not in name for name in said.values()):
        raise SourceError(f"{index}: weight_map must map tensors to safetensors files beside it")
    return sorted(set(said.values()))


def _twice(root: RootedPath, stored: str, name: str, files: list[str]) -> SourceError | JobError:
    if stored == name:
        return SourceError(f"{name} is in two files of {root}: {' and '.join(files)}")
    return JobError(f"source.names: two tensors of {root} would be {name}, one of them {stored}")


SOURCE = TensorFiles()
