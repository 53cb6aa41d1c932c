"""Explanations of single faces: what a run predicts, where it looks, and what its answer depends on."""

from aujax.explain.explain import explain
from aujax.explain.explanation import Explanation

__all__ = ["Explanation", "explain"]
