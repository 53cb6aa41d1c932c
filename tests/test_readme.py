"""The README's example runs, and the files it names are there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from golden_face import LANDMARKS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def my_model(params, image):
    features = jax.nn.relu(params * image)
    return features.mean((1, 2)), features


def test_the_example_gives_a_loss_with_finite_gradients():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"my_model": my_model, "my_cross_entropy": optax.softmax_cross_entropy_with_integer_labels}
    exec(example, names)
    batch = {
        "image": jnp.ones((2, 7, 7, 7)),
        "landmarks": jnp.asarray(LANDMARKS, jnp.float32)[None].repeat(2, axis=0),
        "label": jnp.array([0, 1]),
    }
    loss, gradient = jax.jit(jax.value_and_grad(names["loss_fn"]))(jnp.ones((1, 1, 1, 7)), batch)
    assert jnp.isfinite(loss)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README)) | {"configs/faces.py", "benchmarks/au_maps.py"})
)
def test_a_file_that_is_named_exists(path):
    assert (ROOT / path).exists()
