"""Every error SkinGPT Edge raises on purpose.

SkinGPTError                 base: catch this one
├── InputError               a picture, question or option value that cannot be used (exit code 3)
│   ├── ImageError           the picture: not an image, truncated, too large, …
│   └── QuestionError        the question does not fit into the context
├── BundleError              the bundle is damaged, of another version, or its parts do not fit (exit code 4)
├── Cancelled                the user stopped an answer (exit code 130)
├── ExportError              a checkpoint cannot be turned into a bundle (exit code 4)
│   └── ParityError          a bundle does not compute the original's function within its limits
├── ServiceError             a running service refused or failed, or none is there (exit code 6)
└── EngineError              a library failed while it ran (exit code 6)
    ├── EngineUnavailable    a library or device that was asked for is not there
    └── NumericalError       NaN or infinity where numbers belong: never turned into text
"""


class SkinGPTError(Exception):
    """Base of every error that SkinGPT Edge raises on purpose; its text is meant for the user."""

    exit_code = 6


class InputError(SkinGPTError):
    """A picture, question or value given by the user cannot be used."""

    exit_code = 3


class ImageError(InputError):
    """The picture cannot be used: the text names it and says why."""


class QuestionError(InputError):
    """The question does not fit into the model's context."""


class BundleError(SkinGPTError):
    """The bundle is damaged, of an unknown format, or its parts do not fit together."""

    exit_code = 4


class Cancelled(SkinGPTError):
    """The user stopped an answer before it was finished."""

    exit_code = 130


class ExportError(SkinGPTError):
    """A checkpoint cannot be turned into a bundle."""

    exit_code = 4


class ParityError(ExportError):
    """A bundle does not compute the original's function within its precision's limits."""


class ServiceError(SkinGPTError):
    """What a running service (`skingpt serve`) answered in place of a result, or that none is there."""

    def __init__(
        self, message: str, code: str = "internal_error", status: int | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        """For programs; docs/embed.md lists them all."""
        self.status = status
        """Of HTTP; None if no service answered."""
        self.retry_after = retry_after
        """Seconds after which the service may have room again, if it said so."""


class EngineError(SkinGPTError):
    """An engine failed while it ran."""


class EngineUnavailable(EngineError):
    """A library or device that was asked for is not there."""


class NumericalError(EngineError):
    """NaN or infinity where numbers belong."""
