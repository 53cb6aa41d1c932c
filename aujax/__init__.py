"""Facial-expression classifiers whose attention agrees with facial action units."""

__version__ = "0.1.0"
