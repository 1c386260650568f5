"""The exception tree. Every message is one line that names the file or option and the remedy.

ProjcleanError            anything a user can cause; the command line prints it and exits 2
├── CheckpointError       a file or directory that is not a readable model
├── ProjectorNotFound     no projector layers in a checkpoint
├── BaseNotFound          no base model was given or found
├── MismatchError         suspect and base do not belong together
├── ModelError            the model cannot be run by transformers here
├── ImagesError           calibration images that cannot be read
├── EvalError             an evaluation file or set that cannot be used
├── ThresholdsError       a thresholds file that cannot be used
├── OptionError           an option out of range
├── ReportError           a saved report that cannot be read
└── OutputError           an output that cannot or must not be written
"""

from __future__ import annotations


class ProjcleanError(Exception):
    """Base of every error projclean raises on purpose."""


class CheckpointError(ProjcleanError):
    """A file or directory that is not a readable model."""


class ProjectorNotFound(ProjcleanError):
    """No projector layers in a checkpoint."""


class BaseNotFound(ProjcleanError):
    """No base model was given or found."""


class MismatchError(ProjcleanError):
    """Suspect and base do not belong together."""


class ModelError(ProjcleanError):
    """The model cannot be run by transformers here."""


class ImagesError(ProjcleanError):
    """Calibration images that cannot be read."""


class EvalError(ProjcleanError):
    """An evaluation file or set that cannot be used."""


class ThresholdsError(ProjcleanError):
    """A thresholds file that cannot be used."""


class OptionError(ProjcleanError):
    """An option out of range."""


class ReportError(ProjcleanError):
    """A saved report that cannot be read."""


class OutputError(ProjcleanError):
    """An output that cannot or must not be written."""
