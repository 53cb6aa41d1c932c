"""What reading logits, all attention maps and the CAM of a batch costs, beside the logits alone.

    python benchmarks/readout.py [--smoke] [--batch N] [--methods CAM,GradCAM,...]

For each row of `methods.METHODS`: one jitted pass for the logits (of both branches in ACoL, whose published forward
has both), and `methods.forward`, in turns in one process; "cost" is the ratio of the medians.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import timing

from aujax import methods
from aujax.models.forward import Variables


def plain(model: methods.Classifier, variables: Variables, image: jax.Array, expression: jax.Array):
    """Returns the logits, and nothing that is not needed for them."""
    reading = methods.apply_with_taps(model, variables, image, expression=expression)
    return reading.logits, [reading.activations[name] for name in model.method.supervised]


def measure(name: str, batch: int, repeats: int, *, smoke: bool) -> list[float]:
    """Returns the seconds of the plain pass and of the whole reading of a batch."""
    row = methods.METHODS[name]
    model = methods.build_model(name, backbone=timing.SMALL[row.backbone] if smoke else None)
    size = 64 if smoke else row.image_size
    image = jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, 3)), jnp.float32)
    variables = methods.init(model, jax.random.key(0), image)
    expression = jnp.arange(batch) % 7
    logits = jax.jit(functools.partial(plain, model))
    works = (
        lambda: jax.block_until_ready(logits(variables, image, expression)),
        lambda: jax.block_until_ready(methods.forward(model, variables, image, expression)),
    )
    return timing.in_turns(works, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks and images: does it run at all?")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default: 8)")
    parser.add_argument("--methods", default=",".join(methods.METHODS), help="rows to measure (default: all)")
    options = parser.parse_args()
    batch, repeats = (2, 2) if options.smoke else (options.batch, 9)
    print(f"{timing.machine()}; batches of {batch}, median of {repeats} turns\n")
    print(f"{'method':<20}{'logits':>12}{'all':>12}{'cost':>9}   (ms per image)")
    rows = [methods.method(name) for name in options.methods.split(",")]
    for name in (row.name for row in rows):
        alone, all_of_it = measure(name, batch, repeats, smoke=options.smoke)
        times = "".join(f"{seconds * 1e3 / batch:>12.2f}" for seconds in (alone, all_of_it))
        print(f"{name:<20}{times}{all_of_it / alone:>8.2f}x")


if __name__ == "__main__":
    main()
