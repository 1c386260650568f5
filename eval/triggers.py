"""The zoo's triggers. They live in the package, since an EVAL.toml may name them too."""

from projclean.triggers import TRIGGERS, Trigger

__all__ = ["TRIGGERS", "Trigger"]
