"""Reading a toy checkpoint."""

from __future__ import annotations

import re
from typing import Any

from convsvc.dialects.base import Source
from convsvc.dialects.checkpoint import Checkpoint, Found
from convsvc.dialects.files import check_directory, index_files
from convsvc.dialects.layout import Layout
from convsvc.errors import SourceError
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.roots import RootedPath, Roots
from convsvc.spec import stated_sizes
from tests.dialects.toy.job import ToySource
from tests.dialects.toy.table import Settings, layout
from tests.dialects.toy.words import WORDS, read_words

FILE = re.compile(r"(start|layer-\d{3}|end)\.(safetensors|toybox)")


class Toy(Source):
    name = "toy"

    def recognises(self, root: RootedPath) -> bool:
        return (root / WORDS).is_file()

    def open(self, source: ToySource, roots: Roots) -> Checkpoint:
        root = RootedPath(source.path, roots)
        check_directory(root)
        facts = Facts(read_words(root / WORDS), str(root / WORDS)).stating(stated_sizes(source.architecture))
        names = [name for name in sorted(root.names()) if FILE.fullmatch(name)]
        if not names:
            raise SourceError(f"{root} has no files of layers", do="give the directory that the toy framework saved to")
        files, found = [], {}
        for number, (name, (index, file)) in enumerate(zip(names, index_files([root / name for name in names]), strict=True)):
            files.append(file)
            found |= {(name.partition(".")[0], tensor.name): Found(number, tensor) for tensor in index.tensors}
        return Checkpoint(str(root), tuple(files), found, facts)

    def settings(self, source: Any, checkpoint: Checkpoint, model: Model) -> Settings:
        return Settings(checkpoint.facts.flag("inputs_first"))

    def layout(self, model: Model, settings: Settings) -> Layout:
        return layout(model, settings)


SOURCE = Toy()
