"""What hiding every action unit costs, in passes through the network, and what the scores of its maps add to one pass.

    python benchmarks/faithfulness.py [--smoke] [--small] [--batch N] [--images N] [--methods CAM,TS-CAM,...]

Pictures, landmarks and weights are random and lie on the device. For each method, in turns in one process: the logits
alone, batched; `occlusion.occlude_aus` of all action units, with each filling, in units of that; and all of
`metrics.scores` for every map against the AU maps of the label and of the predicted class, as a share of it.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import timing
from evaluate import BOOK, Network, bare, network

from aujax import au_maps, augment, methods, metrics, occlusion
from aujax.data.batch import Batch

PASSES = 1 + len(BOOK.same_region(BOOK.all_aus)) + occlusion.NUM_CONTROLS


def intervening(net: Network, filling: str) -> Callable[[], object]:
    """Returns the work of hiding all action units of all images."""

    @jax.jit
    def effects(variables: methods.Variables, batch: Batch) -> occlusion.Effects:
        def score(image: jax.Array) -> jax.Array:
            return net.model.apply(variables, augment.normalize(image, net.config.normalization))

        image, where = jnp.asarray(batch.image, jnp.float32) / 255.0, batch.has_landmarks & batch.valid
        return occlusion.occlude_aus(score, image, batch.landmarks, where, codebook=BOOK, imputation=filling)

    return lambda: jax.device_get([effects(net.variables, batch) for batch in net.batches])


def scoring(net: Network) -> Callable[[], object]:
    """Returns the work of scoring all maps of all images, from the maps and two AU maps a image on."""

    @jax.jit
    def maps_of(variables: methods.Variables, batch: Batch) -> dict[str, jax.Array]:
        image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, net.config.normalization)
        forward = methods.forward(net.model, variables, image, batch.expression)
        return forward.attention if forward.cam is None else {**forward.attention, "cam": forward.cam}

    @jax.jit
    def scores(maps: dict[str, jax.Array], of_label: jax.Array, of_predicted: jax.Array) -> list[dict[str, jax.Array]]:
        return [metrics.scores(value, au_map) for value in maps.values() for au_map in (of_label, of_predicted)]

    passes = [maps_of(net.variables, batch) for batch in net.batches]
    pairs = [(_au_maps(batch, batch.expression), _au_maps(batch, (batch.expression + 1) % 7)) for batch in net.batches]
    return lambda: jax.device_get([scores(maps, *pair) for maps, pair in zip(passes, pairs, strict=True)])


@jax.jit
def _au_maps(batch: Batch, expression: jax.Array) -> jax.Array:
    size = batch.image.shape[1:3]
    return au_maps.batch_au_maps(batch.landmarks, expression, batch.has_landmarks, size=size, codebook=BOOK)[0]


def line(name: str, net: Network, repeats: int, images: int) -> str:
    """Returns a line of the table."""
    interventions = [functools.partial(intervening, filling=filling) for filling in occlusion.IMPUTATIONS]
    works = [work(net) for work in (bare, scoring, *interventions)]
    forward, scored, *hidden = timing.in_turns(works, repeats)
    beside = "".join(f"{seconds / forward:>9.1f}x" for seconds in hidden)
    return f"{name:<20}{forward * 1e3 / images:>9.3f}{beside}{100 * scored / forward:>11.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks, a few images: does it run at all?")
    parser.add_argument("--small", action="store_true", help="small networks that see 96 pixels")
    parser.add_argument("--batch", type=int, default=16, help="images at a time (default: 16)")
    parser.add_argument("--images", type=int, default=16, help="images in all (default: 16)")
    parser.add_argument("--methods", default="CAM,TS-CAM,APViT", help="rows to measure (default: one of each family)")
    options = parser.parse_args()
    batch, images, repeats = (8, 8, 1) if options.smoke else (options.batch, options.images, 3)
    size = 64 if options.smoke else 96 if options.small else None
    print(f"{timing.machine()}; {images} images in batches of {batch}, median of {repeats} turns")
    print(f"{len(BOOK.all_aus)} action units and their controls take {PASSES} passes\n")
    fillings = "".join(f"{filling:>10}" for filling in occlusion.IMPUTATIONS)
    print(f"{'ms per image':<20}{'forward':>9}{fillings}{'scores':>13}")
    for name in options.methods.split(","):
        net = network(methods.method(name).name, batch, images, size)
        print(line(name, net, repeats, images), flush=True)


if __name__ == "__main__":
    main()
