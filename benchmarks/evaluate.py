"""The cost of evaluation relative to the forward pass, and of comparing maps relative to one image at a time.

    python benchmarks/evaluate.py [--smoke] [--small] [--batch N] [--images N] [--methods CAM,TS-CAM,...]

Images and landmarks are random and on the device. For each method, in turns in one process, milliseconds per image
of: the logits alone, batched; `evaluate.predict` as in a validation (accuracy, CAM-COS, ATT-COS of every layer); the
same as in eval.py (also baseline maps, scores and class means, all maps copied to the host). Then, given logits,
attention and CAM, AU maps included: `evaluate.compare`, batched; the same image by image; and image by image as the
released code does it, restated with NumPy and OpenCV, on one core.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import cv2
import faces
import jax
import jax.numpy as jnp
import numpy as np
import timing
from readout import plain
from released_au_maps import EXPRESSION_AUS, released_map
from released_cosines import released_cam_cosine, released_cosine

from aujax import au_maps, augment, codebook, methods
from aujax.config import Config
from aujax.data.batch import Batch, data_mesh, replicated, to_mesh
from aujax.evaluation import evaluate
from aujax.evaluation.collect import MapCollector

BOOK = codebook.FACS


class Times(NamedTuple):
    """Seconds of each work, over all images."""

    forward: float
    validation: float
    evaluation: float
    after: float
    one_by_one: float
    released: float


class Network(NamedTuple):
    """A network with random weights, and random batches on its mesh."""

    model: methods.Classifier
    config: Config
    variables: methods.Variables
    batches: list[Batch]
    mesh: jax.sharding.Mesh


def network(name: str, batch: int, images: int, size: int | None) -> Network:
    """Returns the published network of a method, or for images of `size` the small one of its family."""
    row, mesh = methods.METHODS[name], data_mesh()
    config = Config(method=name, backbone=timing.SMALL[row.backbone] if size else "", image_size=size or row.image_size)
    model = methods.build_model(name, backbone=config.backbone or None)
    variables = methods.init(model, jax.random.key(0), jnp.zeros((1, config.image_size, config.image_size, 3)))
    whole = faces.batch(images, config.image_size)
    parts = [Batch(*(part[start : start + batch] for part in whole)) for start in range(0, images, batch)]
    batches = [to_mesh(part, mesh) for part in parts]
    return Network(model, config, jax.device_put(variables, replicated(mesh)), batches, mesh)


def bare(net: Network) -> Callable[[], object]:
    """Returns the work of the logits of all batches."""

    @jax.jit
    def logits(variables: methods.Variables, batch: Batch):
        image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, net.config.normalization)
        return plain(net.model, variables, image, batch.expression)

    return lambda: jax.device_get([logits(net.variables, batch) for batch in net.batches])


def evaluating(net: Network, *, files: bool) -> Callable[[], object]:
    """Returns the work of a validation, or of what `eval.py` does but for reading and writing files."""
    if files:
        eval_step = evaluate.make_full_eval_step(net.model, net.config, net.mesh)
    else:
        eval_step = evaluate.make_eval_step(evaluate.make_forward(net.model, net.config, net.mesh), net.mesh)
    images = sum(len(batch.index) for batch in net.batches)

    def work() -> object:
        sinks = [MapCollector(images, attention_layer=net.model.method.tap, directory=None)] if files else []
        return evaluate.predict(eval_step, net.variables, net.batches, mesh=net.mesh, sinks=sinks)

    return work


def after(batches: list[Batch], passes: list[methods.Forward]) -> Callable[[], object]:
    """Returns the work that follows the forward passes of all batches, batch by batch."""
    compare = jax.jit(evaluate.compare)

    @jax.jit
    def drawn(batch: Batch) -> tuple[jax.Array, jax.Array]:
        size = batch.image.shape[1:3]
        return au_maps.batch_au_maps(batch.landmarks, batch.expression, batch.valid, size=size, codebook=BOOK)

    pairs = list(zip(batches, passes, strict=True))
    return lambda: jax.device_get([compare(batch, outputs, *drawn(batch)) for batch, outputs in pairs])


def one_by_one(batches: list[Batch], passes: list[methods.Forward]) -> Callable[[], object]:
    """Returns the same work, image by image."""
    pairs = list(zip(batches, passes, strict=True))
    alone = [jax.tree.map(lambda x, i=i: x[i : i + 1], pair) for pair in pairs for i in range(len(pair[0].index))]
    return after(*(list(part) for part in zip(*alone, strict=True)))


def released(batches: list[Batch], passes: list[methods.Forward]) -> Callable[[], object]:
    """Returns the same work as the released code does it."""
    images = []
    for batch, forward in jax.device_get(list(zip(batches, passes, strict=True))):
        for row, label in enumerate(batch.expression):
            maps = {layer: attention[row] for layer, attention in forward.attention.items()}
            cam = None if forward.cam is None else forward.cam[row]
            images.append((forward.logits[row], maps, cam, batch.landmarks[row], BOOK.expressions[label]))
    size = batches[0].image.shape[1:3]
    return lambda: [read_one(*image, size) for image in images]


def read_one(
    logits: np.ndarray,
    maps: dict[str, np.ndarray],
    cam: np.ndarray | None,
    landmarks: np.ndarray,
    expression: str,
    size: tuple[int, int],
) -> list[float]:
    """Returns the predicted class of one image, its probability, and its cosines if there is an AU map."""
    chances = np.exp(logits - logits.max())
    read = [float(logits.argmax()), float(chances.max() / chances.sum())]
    au_map = released_map(landmarks, EXPRESSION_AUS.get(expression, ()), size)
    if au_map is None:
        return read
    read += [released_cosine(attention, au_map) for attention in maps.values()]
    return read if cam is None else [*read, released_cam_cosine(cam, au_map)]


def measure(net: Network, repeats: int) -> Times:
    """Returns the seconds of each work."""

    def forward(batch: Batch) -> methods.Forward:
        image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, net.config.normalization)
        return methods.forward(net.model, net.variables, image, batch.expression)

    passes = [forward(batch) for batch in net.batches]
    works = (
        bare(net),
        evaluating(net, files=False),
        evaluating(net, files=True),
        after(net.batches, passes),
        one_by_one(net.batches, passes),
        released(net.batches, passes),
    )
    return Times(*timing.in_turns(works, repeats))


def line(name: str, times: Times, images: int) -> str:
    """Returns a line of the table."""
    ms = Times(*(seconds * 1e3 / images for seconds in times))
    beside = [f"{time:>12.3f}{time / ms.forward:>7.2f}x" for time in (ms.validation, ms.evaluation)]
    behind = [f"{time:>12.3f}{time / ms.after:>7.1f}x" for time in (ms.one_by_one, ms.released)]
    return f"{name:<20}{ms.forward:>9.3f}{''.join(beside)}{ms.after:>9.3f}{''.join(behind)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks, a few images: does it run at all?")
    parser.add_argument("--small", action="store_true", help="small networks that see 96 pixels")
    parser.add_argument("--batch", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument("--images", type=int, default=256, help="images in all (default: 256)")
    parser.add_argument("--methods", default="CAM,TS-CAM,APViT", help="rows to measure (default: one of each family)")
    options = parser.parse_args()
    batch, images, repeats = (8, 16, 2) if options.smoke else (options.batch, options.images, 9)
    size = 64 if options.smoke else 96 if options.small else None
    cv2.setNumThreads(1)
    print(f"{timing.machine()}; {images} images in batches of {batch}, median of {repeats} turns\n")
    before, behind = ("validation", "as eval.py"), ("image by image", "the released way")
    before, behind = ("".join(f"{head:>20}" for head in heads) for heads in (before, behind))
    print(f"{'ms per image':<20}{'forward':>9}{before}{'after':>9}{behind}")
    for row in [methods.method(name) for name in options.methods.split(",")]:
        print(line(row.name, measure(network(row.name, batch, images, size), repeats), images))


if __name__ == "__main__":
    main()
