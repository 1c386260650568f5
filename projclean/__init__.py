"""projclean vets and sanitises the projector of a multimodal model that somebody else fine-tuned.

    >>> import projclean
    >>> result = projclean.scan("models/suspect", base="models/base")
    >>> result.verdict.state
    'suspicious'

Nothing heavy is imported until one of the functions is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ProjcleanError",
    "__version__",
    "calibrate",
    "evaluate",
    "lens_report",
    "load",
    "repair",
    "scan",
    "scan_series",
]

_HOMES = {
    "scan": "projclean.scanner",
    "scan_series": "projclean.series",
    "calibrate": "projclean.calibrator",
    "repair": "projclean.repairer",
    "evaluate": "projclean.evaluator",
    "lens_report": "projclean.lens.analysis",
    "load": "projclean.live",
    "ProjcleanError": "projclean.errors",
}

if TYPE_CHECKING:
    from projclean.calibrator import calibrate
    from projclean.errors import ProjcleanError
    from projclean.evaluator import evaluate
    from projclean.lens.analysis import lens_report
    from projclean.live import load
    from projclean.repairer import repair
    from projclean.scanner import scan
    from projclean.series import scan_series


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'projclean' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
