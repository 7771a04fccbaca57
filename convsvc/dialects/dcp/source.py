"""Reading a torch distributed checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from convsvc.dialects.base import Source
from convsvc.dialects.checkpoint import Checkpoint
from convsvc.dialects.dcp.checkpoint import CONFIG, by_family_names, open_checkpoint, place_of
from convsvc.dialects.dcp.job import DcpSource
from convsvc.dialects.dcp.layout import Settings, lay_source
from convsvc.dialects.dcp.opened import Opened
from convsvc.dialects.huggingface.source import SOURCE as HUGGING_FACE
from convsvc.dialects.huggingface.source import packed_rows
from convsvc.dialects.layout import Layout
from convsvc.models.family import Family
from convsvc.models.model import Model
from convsvc.roots import RootedPath, Roots


class Dcp(Source):
    """Hugging Face's tensors in chunks, wherever they were cut."""

    name = "dcp"

    def recognises(self, root: RootedPath) -> bool:
        return place_of(root) is not None

    def settled(self, source: DcpSource, roots: Roots) -> DcpSource:
        """With the configuration that lies beside the files or above them, where the job names none."""
        if source.config_dir is not None:
            return source
        given = RootedPath(source.path, roots)
        places = [place for place in (place_of(given), given) if place is not None]
        beside = next((place.path for place in places if (place / CONFIG).is_file()), None)
        return source.model_copy(update={"config_dir": beside})

    def words_dir(self, source: DcpSource) -> str | None:
        return source.config_dir

    def open(self, source: DcpSource, roots: Roots) -> Checkpoint:
        return open_checkpoint(source, roots)

    def by_family_names(self, checkpoint: Checkpoint, family: Family) -> Checkpoint:
        return by_family_names(checkpoint, family)

    def shapes(self, checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
        opened: Opened = checkpoint.settings
        return opened.shapes

    def settings(self, source: DcpSource, checkpoint: Checkpoint, model: Model) -> Settings:
        """Where the pieces are; whether experts are packed, the names say. Raises SourceError."""
        opened: Opened = checkpoint.settings
        packed = packed_rows(model, opened.shapes, checkpoint.path)
        return Settings(opened.cuts, opened.shapes, packed.packed if packed else ())

    def layout(self, model: Model, settings: Settings) -> Layout:
        return lay_source(model, settings)

    def ignores(self, key: tuple[str, str], model: Model) -> str | None:
        """As of a Hugging Face checkpoint: buffers that are no weights, and layers left out."""
        return HUGGING_FACE.ignores(key, model)

    def storing(self, model: Model, names: Iterable[str]) -> Model:
        return model.storing(names)


SOURCE = Dcp()
