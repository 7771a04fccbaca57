"""Every error a user can meet.

    ConvsvcError
      JobError            the job asks for something that does not exist or contradicts itself
        PathRefused       a path leads out of the directories that the job must stay in
      LayoutError         parallel sizes that no checkpoint of this model can have
      SourceError         the source checkpoint is not what it should be
        FormatError       a file of it cannot be read as what it says it is
        HostileFile       a file of it tries to run code
        SourceChanged     it changed while it was read
      PlanError           source and target do not match, tensor by tensor
      TargetError         the target cannot be written
        TargetExists      there is something at the target already
        TargetBusy        another job writes to the same target
        NoSpace           the target's file system is too small or full
      StorageError        reading or writing failed; trying again may help
        PlaceUnfit        this machine cannot do its part of the work; another one may
      Superseded          a later run has taken over; what this one does no longer counts
      VerifyError         what was written is not what should have been written
      Canceled            somebody asked the job to stop
      ServiceError        the service refused or did not answer
        EngineAway        where tasks run does not answer; it may come back

Inner code states the fact; the door (CLI, HTTP) decides how it looks. An error carries fields from which both the text and
the RFC 9457 problem are made.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class ConvsvcError(Exception):
    """What went wrong (`message`), one fact a line (`facts`), and what to do about it (`do`).

    `details` holds the same facts for machines; everything in it must be JSON.
    """

    title: ClassVar[str] = "conversion error"
    slug: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2
    http_status: ClassVar[int] = 422
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        facts: tuple[str, ...] | list[str] = (),
        do: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts = tuple(facts)
        self.do = do
        self.details = dict(details or {})

    def __str__(self) -> str:
        lines = [self.message, *(f"  {fact}" for fact in self.facts)]
        if self.do:
            lines.append(f"  do: {self.do}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.as_dict())

    def beginning(self, *facts: str) -> Self:
        """The same error with these facts before its own: what only the door knows."""
        return type(self)(self.message, facts=(*facts, *self.facts), do=self.do, details=self.details)

    def one_line(self) -> str:
        """The same text on a single line, for tools whose errors are one line."""
        text = self.message
        if self.facts:
            text += ": " + "; ".join(fact.strip() for fact in self.facts)
        return text + (f" ({self.do})" if self.do else "")

    def as_dict(self) -> dict[str, Any]:
        """A JSON form from which `error_from_dict` makes the error again."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "facts": list(self.facts),
            "do": self.do,
            "details": self.details,
            "retryable": self.retryable,
        }


class JobError(ConvsvcError):
    title, slug = "invalid job", "invalid-job"


class PathRefused(JobError):
    title, slug, http_status = "path not allowed", "path-refused", 403


class LayoutError(ConvsvcError):
    title, slug = "impossible layout", "impossible-layout"


class SourceError(ConvsvcError):
    title, slug, exit_code = "bad source checkpoint", "bad-source", 3


class FormatError(SourceError):
    title, slug = "unreadable file", "unreadable-file"


class HostileFile(FormatError):
    title, slug = "hostile file", "hostile-file"


class SourceChanged(SourceError):
    title, slug = "source changed", "source-changed"


class PlanError(ConvsvcError):
    title, slug, exit_code = "source and target do not match", "no-match", 3


class TargetError(ConvsvcError):
    title, slug, exit_code = "target cannot be written", "bad-target", 4


class TargetExists(TargetError):
    title, slug, http_status = "target exists", "target-exists", 409


class TargetBusy(TargetError):
    title, slug, http_status = "target is being written", "target-busy", 409


class NoSpace(TargetError):
    title, slug = "no space left", "no-space"


class StorageError(ConvsvcError):
    title, slug, exit_code, http_status, retryable = "storage error", "storage-error", 5, 503, True


class PlaceUnfit(StorageError):
    title, slug = "machine cannot do the work", "place-unfit"


class Superseded(ConvsvcError):
    title, slug, exit_code, http_status = "superseded", "superseded", 5, 409


class VerifyError(ConvsvcError):
    title, slug, exit_code = "verification failed", "verification-failed", 6


class Canceled(ConvsvcError):
    title, slug, exit_code = "canceled", "canceled", 7


class ServiceError(ConvsvcError):
    title, slug, exit_code, http_status = "service error", "service-error", 8, 502


class DeadlinePassed(ServiceError):
    title, slug, exit_code, http_status = "deadline passed", "deadline-passed", 5, 504


class EngineAway(ServiceError):
    title, slug, http_status, retryable = "engine away", "engine-away", 503, True


def error_from_dict(data: dict[str, Any]) -> ConvsvcError:
    """The error whose `as_dict` is `data`; an unknown type becomes a plain ConvsvcError."""
    kinds = {cls.__name__: cls for cls in _all_errors(ConvsvcError)}
    kind = kinds.get(str(data.get("type")), ConvsvcError)
    return kind(
        str(data.get("message", "")),
        facts=tuple(data.get("facts") or ()),
        do=data.get("do"),
        details=data.get("details") or {},
    )


def _rebuild(kind: type[ConvsvcError], data: dict[str, Any]) -> ConvsvcError:
    return kind(data["message"], facts=data["facts"], do=data["do"], details=data["details"])


def _all_errors(root: type[ConvsvcError]) -> list[type[ConvsvcError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in _all_errors(child))]
