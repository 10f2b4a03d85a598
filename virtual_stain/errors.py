"""Every error that a user can meet, and the exit code each one ends the command with.

    VirtualStainError                 1  a bug, if it is none of the ones below
    ├── ConfigError                   2  a wrong option, config field or combination
    │   └── UnsuitableError              a slide of another stain than the model or the place in a pair asks for
    ├── InputError                    3  something about a file that was given
    │   ├── SlideError                   the slide cannot be opened or read
    │   ├── ResolutionError              its pixel size is missing or absurd
    │   ├── NoTissueError                nothing on it can be analysed
    │   ├── PairError                    a row of PAIRS.csv, or two slides that do not belong together
    │   ├── RejectedError                a registration whose verdict is "reject"
    │   ├── OutputError                  the output folder cannot be written, is full, or belongs to another run
    │   └── VerificationError            a checksum, a CRC, a schema or a hash does not match
    ├── ReviewPendingError            4  tiles still need a person's verdict
    ├── ModelError                    5  weights, bundle or server
    └── BatchError                    6  part of a batch failed; the rest is done

Every message says what was expected and what was received, and names the file; `hint` is the way out,
a command where there is one.
"""

from __future__ import annotations


class VirtualStainError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  → {self.hint}"

    def __reduce__(self) -> tuple[type[VirtualStainError], tuple[str, str | None]]:
        # Exceptions travel between processes; the default would drop the hint.
        return type(self), (self.message, self.hint)


class ConfigError(VirtualStainError):
    """A wrong option, config field or combination of them."""

    exit_code = 2


class UnsuitableError(ConfigError):
    """A slide whose stain contradicts what it was given for: an IHC slide for a model of H&E."""


class InputError(VirtualStainError):
    """Something about a file that was given."""

    exit_code = 3


class SlideError(InputError):
    """A slide cannot be opened or read."""


class ResolutionError(InputError):
    """A slide's pixel size is missing, contradictory or outside the range a stage accepts."""


class NoTissueError(InputError):
    """Nothing on the slide can be analysed (glass, fluorescence, empty)."""


class PairError(InputError):
    """A row of PAIRS.csv is unusable, or two slides do not belong together."""


class RejectedError(InputError):
    """The registration of a pair got the verdict "reject"."""


class OutputError(InputError):
    """An output cannot be written: read-only, full, or it belongs to another run."""


class VerificationError(InputError):
    """A checksum, a CRC, a schema or a hash does not match what was recorded."""


class ReviewPendingError(VirtualStainError):
    """Tiles still need a person's verdict before records can be written."""

    exit_code = 4


class ModelError(VirtualStainError):
    """Weights, a model bundle or a model server cannot be used."""

    exit_code = 5


class BatchError(VirtualStainError):
    """Part of a batch failed; what succeeded is on disk."""

    exit_code = 6
