"""What fields of a job are made of: sizes, texts, paths, all of them bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 2**31 - 1
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
# No file system takes a NUL in a name, nor PostgreSQL in a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
# A number for each of a model's layers, or stages.
Counts = Annotated[tuple[Count, ...], Field(max_length=10_000)]

# As Kubernetes has them, so that they need no quotes anywhere.
LabelName = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9._/@:+-]*[A-Za-z0-9])?)?$")]


# A job's id, or so much of it that it fits no other; in a batch "#0" is its first job.
JobReference = Annotated[str, Field(pattern=r"^(#[0-9]{1,4}|[0-9A-Za-z]{4,26})$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
