"""The examples in the docstrings of the array modules run and print what they say."""

import doctest
import importlib

import jax
import jax.numpy as jnp
import pytest


@pytest.mark.parametrize(
    "name",
    [
        *("au_maps", "augment", "bootstrap", "calibration", "cams", "codebook", "explain.explain", "explain.narrative"),
        *(
            "explain.page",
            "explain.tables",
            "report.html",
            "losses",
            "metrics",
            "models.apvit",
            "models.taps",
            "occlusion",
        ),
        *("plain_yaml", "resize", "run_files", "statistics"),
    ],
)
def test_examples_are_right(name):
    module = importlib.import_module(f"aujax.{name}")
    outcome = doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.attempted > 0
    assert outcome.failed == 0
