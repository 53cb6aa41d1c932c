"""Every number between an evaluation and its readers: tables on disk, metrics, intervals, comparisons of runs.

registry     `METRICS`: what is measured, one row per metric
schema       the tables of an evaluation on disk: one writer, one reader
summary      from values per face to values with intervals, overall and by group
statistics   intervals, paired tests, several seeds
calibration  temperature, calibration error, selective prediction
compare      run folders side by side: pairs, paired tests, seeds

Nothing here imports JAX, so a report can be written wherever the files are.
"""

from aujax.results.registry import METRICS, Metric

__all__ = ["METRICS", "Metric"]
