"""Explanations of single faces: what a run sees in a photograph, where it looks, and what it rests on."""

from aujax.explain.explaining import explain
from aujax.explain.explanation import Explanation

__all__ = ["Explanation", "explain"]
