"""Running a foreign model: whatever goes wrong in that is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from projclean.errors import ModelError, ProjcleanError
from projclean.loading import brief


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Tell what a model that loads raises when it is run as a ModelError."""
    try:
        yield
    except ProjcleanError:
        raise
    except Exception as error:  # the model's configuration is a stranger's: anything may go wrong in it
        raise ModelError(f"{path}: the model loads but fails when it is run ({brief(error)})") from error
