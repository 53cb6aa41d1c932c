"""Which deliberate errors do the tests notice? Each row of MUTATIONS changes one line of a copy of the repository.

    python benchmarks/mutations.py [--rows 3,10-14]

Every row names the test files, or single tests, that ought to fail; they must pass without it. Prints a table and exits
with status 1 if fewer than 95 % of the rows are noticed. A row whose change has no effect carries the argument why, and
is not counted. The whole table takes about half an hour, so `make test` does not include it.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
REQUIRED = 0.95


class Mutation(NamedTuple):
    """One changed line: the file, the line without its indentation, what replaces it, and what the change means."""

    file: str
    line: str
    replacement: str
    meaning: str
    tests: Sequence[str]
    equivalent: str = ""  # why no test can notice it


LOSSES = ("tests/test_losses.py",)
AU_MAPS = ("tests/test_au_maps.py",)
AUGMENT = ("tests/test_augment.py",)
CUTMIX = ("tests/test_cutmix.py",)
STEP = "tests/test_step.py::test_"
VIEWS = tuple(
    STEP + name
    for name in (
        "the_normalization_of_the_pixels_is_chosen",
        "faces_without_landmarks_and_padding_have_no_map",
        "the_order_of_color_changes_is_drawn_for_each_batch",
        "a_marker_at_a_landmark_ends_under_the_region_of_its_action_unit",
        "the_seed_changes_the_views",
    )
)
TERMS = tuple(
    STEP + name
    for name in (
        "several_layers_are_summed",
        "a_mean_over_batches_counts_faces",
        "the_total_is_cross_entropy_plus_weighted_alignment",
        "label_smoothing_spreads_its_share_of_the_label_over_all_classes",
    )
)
DEVICES = (STEP + "eight_devices_give_the_losses_and_parameters_of_one",)
PARTS = (STEP + "a_batch_in_two_parts_gives_the_update_of_the_whole",)
EVALUATE = ("tests/test_evaluate.py",)
STATISTICS = ("tests/test_statistics.py",)
CALIBRATION = ("tests/test_calibration.py", "tests/test_summary.py")

# fmt: off
MUTATIONS = (
    # Losses.
    Mutation("aujax/losses.py", "attention = jnp.asarray(features, jnp.float32).mean(-1)",
             "attention = jnp.asarray(features, jnp.float32).max(-1)",
             "attention is the channels' maximum", LOSSES),
    Mutation("aujax/losses.py", "target = resize.torch_aligned(jnp.asarray(au_map, jnp.float32), attention.shape[-2:])",
             "target = resize.bilinear(jnp.asarray(au_map, jnp.float32), attention.shape[-2:])",
             "the loss resamples by another kernel", LOSSES),
    Mutation("aujax/losses.py", "return loss if where is None else jnp.where(where, loss, 0.0)", "return loss",
             "a face without AU map has loss 1", LOSSES),
    Mutation("aujax/losses.py", 'return total / len(values) if reduction == "mean" else total', "return total",
             "losses of layers are always summed", LOSSES),
    Mutation("aujax/losses.py", "target = optax.smooth_labels(jnp.asarray(target), label_smoothing)",
             "target = jnp.asarray(target)", "labels are never smoothed", LOSSES),
    Mutation("aujax/losses.py",
             "total = sum((term.weight * whole[name].compute() for name, term in terms.items()), jnp.zeros(()))",
             "total = sum((whole[name].compute() for name, term in terms.items()), jnp.zeros(()))",
             "terms have no weight", LOSSES),
    # AU maps.
    Mutation("aujax/au_maps.py", "valid &= jnp.asarray(expression) >= 0", "pass",
             "a negative label has the map of the last expression", AU_MAPS),
    Mutation("aujax/au_maps.py", "has_map = finite & touched", "has_map = touched",
             "landmarks that are not finite have a map", AU_MAPS),
    Mutation("aujax/au_maps.py", "has_map &= where", "pass", "faces without landmarks have a map", AU_MAPS),
    Mutation("aujax/au_maps.py",
             "scale = np.array([canvas[1] / size[1], canvas[0] / size[0]], np.float32).reshape(1, 1, 2)",
             "scale = np.array([canvas[0] / size[0], canvas[1] / size[1]], np.float32).reshape(1, 1, 2)",
             "x and y are swapped between image and canvas", AU_MAPS),
    Mutation("aujax/au_maps.py", "landmarks = jnp.round(rescale_landmarks(landmarks, scale), 3)",
             "landmarks = rescale_landmarks(landmarks, scale)",
             "landmarks on the canvas are 49.99999 instead of 50", AU_MAPS),
    Mutation("aujax/au_maps.py", "up = _FOREHEAD * jnp.stack([eyes[1], -eyes[0]])",
             "up = _FOREHEAD * jnp.stack([eyes[1], eyes[0]])", "the forehead is below the brows", AU_MAPS),
    # Augmentation.
    Mutation("aujax/augment.py",
             "return upper * (1 - down) + lower * down, _sample(au_map, jnp.floor(y + 0.5), jnp.floor(x + 0.5))",
             "return upper * (1 - down) + lower * down, _sample(au_map, jnp.floor(y), jnp.floor(x))",
             "the AU map moves half a pixel less than the image", AUGMENT),
    Mutation("aujax/augment.py", "x = _sometimes(keys[3], policy.flip_rate, jnp.flip, x)",
             "y = _sometimes(keys[3], policy.flip_rate, jnp.flip, y)", "faces are turned upside down", AUGMENT),
    Mutation("aujax/augment.py", "cy, cx = (height - 1) / 2, (width - 1) / 2", "cy, cx = height / 2, width / 2",
             "rotation is half a pixel off the centre", AUGMENT),
    Mutation("aujax/augment.py",
             "angle = jnp.deg2rad(policy.rotation) * jax.random.uniform(keys[4], minval=-1.0)",
             "angle = jnp.deg2rad(policy.rotation) * jax.random.uniform(keys[4])",
             "rotation in one direction only", AUGMENT),
    Mutation("aujax/augment.py", "side = jnp.sqrt(1.0 - policy.crop * jax.random.uniform(keys[0]))"
             "  # of the crop, as a fraction of the source's",
             "side = 1.0 - policy.crop * jax.random.uniform(keys[0])",
             "the crop's side, not its area, is drawn", AUGMENT),
    Mutation("aujax/augment.py",
             "aspect = jnp.exp(jax.random.uniform(aspect_key, minval=np.log(0.3), maxval=np.log(3.3)))",
             "aspect = jnp.exp(jax.random.uniform(aspect_key, minval=np.log(0.9), maxval=np.log(1.1)))",
             "erased boxes are almost squares", AUGMENT),
    Mutation("aujax/augment.py",
             "return _blend(image, jnp.full_like(image, mean_luma), factor)",
             "return _blend(image, jnp.full_like(image, image.mean()), factor)",
             "contrast about the mean of the channels, not of the luma", AUGMENT),
    Mutation("aujax/augment.py", "kept = 1.0 - box.mean()", "kept = 1.0 - box.mean() / 2",
             "CutMix: labels are mixed by half the area", CUTMIX),
    Mutation("aujax/augment.py",
             "has_map=(views.has_map | box.all()) & (partners.has_map | ~box.any()),",
             "has_map=views.has_map & partners.has_map,",
             "CutMix: a view without any pixel of its partner needs its map", CUTMIX),
    # The step.
    Mutation("aujax/training/step.py", "image, maps = over_faces((keys, orders, jnp.asarray(batch.image), maps))",
             "image, maps = over_faces((keys, orders, jnp.asarray(batch.image), maps)); maps = maps[..., ::-1]",
             "the AU map is mirrored after the warp", VIEWS),
    Mutation("aujax/training/step.py",
             "keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step), 4)",
             "keys = jax.random.split(jax.random.fold_in(jax.random.key(0), state.step), 4)",
             "the seed does not change the views", VIEWS),
    Mutation("aujax/training/step.py",
             "value = losses.soft_cross_entropy(logits, views.target, label_smoothing=config.label_smoothing)",
             "value = losses.soft_cross_entropy(logits, views.target, label_smoothing=config.label_smoothing / 2)",
             "labels are smoothed by half the option", TERMS),
    Mutation("aujax/training/step.py", "order = jax.random.permutation(order_key, 4)", "order = jnp.arange(4)",
             "colours always change in one order", VIEWS),
    Mutation("aujax/training/step.py", "image = augment.normalize(image, config.normalization)",
             "image = augment.normalize(image)", "training ignores the normalization", VIEWS),
    Mutation("aujax/training/step.py",
             "position = jax.lax.axis_index(DATA_AXIS) * len(batch.index) + jnp.arange(len(batch.index))",
             "position = jax.lax.axis_index(DATA_AXIS) * 0 + jnp.arange(len(batch.index))",
             "every device draws the same views", DEVICES),
    Mutation("aujax/training/step.py",
             "batch.landmarks, batch.expression, batch.has_landmarks & batch.valid, size=size, codebook=book",
             "batch.landmarks, batch.expression, batch.valid, size=size, codebook=book",
             "faces without landmarks are aligned", VIEWS),
    Mutation("aujax/training/step.py", "value = losses.over_layers(values, config.au_layer_reduction)",
             "value = losses.over_layers(values)", "--config.au_layer_reduction is ignored", TERMS),
    Mutation("aujax/training/step.py",
             'terms["alignment"] = losses.Term(value, config.au_weight, where=views.has_map)',
             'terms["alignment"] = losses.Term(value, config.au_weight, where=batch.valid)',
             "Neutral faces dilute the alignment", TERMS),
    Mutation("aujax/training/step.py",
             "total, means = losses.composite(terms, axis_name=DATA_AXIS, counts=counts)",
             "total, means = losses.composite(terms, axis_name=DATA_AXIS)",
             "parts of a batch are divided by their own counts", PARTS),
    # Evaluation.
    Mutation("aujax/evaluation/evaluate.py",
             "return methods.forward(model, variables, image, batch.expression)",
             "return methods.forward(model, variables, image)",
             "CAM of the predicted expression instead of the label", EVALUATE),
    Mutation("aujax/evaluation/evaluate.py",
             "image = augment.normalize(float_images(batch), config.normalization)",
             "image = augment.normalize(float_images(batch))",
             "evaluation ignores the normalization", EVALUATE),
    Mutation("aujax/evaluation/evaluate.py", '"predicted": draw_au_maps(batch, book, predicted),',
             '"predicted": draw_au_maps(batch, book, batch.expression),',
             "scores of the prediction use the label's AU map", EVALUATE),
    Mutation("aujax/evaluation/evaluate.py",
             "one_hot = jax.nn.one_hot(batch.expression, len(book.expressions)) * batch.valid[:, None]",
             "one_hot = jax.nn.one_hot(batch.expression, len(book.expressions))",
             "padding counts in the mean maps of classes", EVALUATE),
    Mutation("aujax/evaluation/evaluate.py",
             'temperature = calibration.fit_temperature(columns["logits"].astype(float), columns["expression"])',
             'temperature = calibration.fit_temperature(columns["logits"].astype(float), columns["predicted"])',
             "the temperature is fitted to the predictions", EVALUATE),
    Mutation("aujax/evaluation/collect.py",
             'divisor = np.maximum(map_counts if name == "au_map" else counts, 1).reshape(-1, 1, 1)',
             "divisor = np.maximum(counts, 1).reshape(-1, 1, 1)",
             "mean AU maps are divided by faces without a map", EVALUATE),
    # Statistics and results.
    Mutation("aujax/results/statistics.py", "return (subjects / (subjects - 1)) ** 0.5", "return 1.0",
             "intervals are not widened for few subjects", STATISTICS),
    Mutation("aujax/results/statistics.py", "student = special.stdtrit(resamples.subjects - 1, (1 + LEVEL) / 2)",
             "student = special.ndtri((1 + LEVEL) / 2)",
             "intervals use the normal quantile instead of Student's t", STATISTICS),
    Mutation("aujax/results/statistics.py", "counts = np.where(counts > 0, counts, np.nan)",
             "counts = np.maximum(counts, 1.0)",
             "a resample without a class counts as 0 in it", STATISTICS),
    Mutation("aujax/results/statistics.py", "return max(student, 2.0 ** (1 - min(subjects, 1000)))", "return student",
             "a p-value below that of all sign flips", STATISTICS),
    Mutation("aujax/results/statistics.py", "scaled = known[order] * np.arange(len(order), 0, -1)",
             "scaled = known[order] * len(order)", "Bonferroni instead of Holm", STATISTICS),
    Mutation("aujax/results/calibration.py",
             'return np.searchsorted(inner_edges, confidence, side="left")',
             'return np.searchsorted(inner_edges, confidence, side="right")',
             "bins include their lower edge", CALIBRATION),
    Mutation("aujax/results/registry.py", "accepted = np.flatnonzero(confidence >= threshold)",
             "accepted = np.flatnonzero(confidence > threshold)",
             "faces at the threshold are not accepted", CALIBRATION),
    Mutation("aujax/results/summary.py",
             'classes = faces.predicted if target == "predicted" else faces.expression',
             "classes = faces.expression", "scores of predictions are averaged by label", CALIBRATION),
    Mutation("aujax/results/summary.py", "accepted = faces.confidence(temperature) >= threshold",
             "accepted = faces.confidence(1.0) >= threshold",
             "the operating point uses uncalibrated probabilities", CALIBRATION),
)
# fmt: on


def changed_text(mutation: Mutation) -> str:
    """Returns the file with the line replaced; ends the program if the line does not occur exactly once."""
    lines = (ROOT / mutation.file).read_text().splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if line.strip() == mutation.line]
    if len(found) != 1:
        raise SystemExit(
            f"{mutation.file}: expected exactly once, found {len(found)} times: {mutation.line}\n"
            "Update the row in benchmarks/mutations.py to the code as it is now."
        )
    (number,) = found
    lines[number] = lines[number].replace(mutation.line, mutation.replacement)
    return "".join(lines)


def tests_fail(copy: pathlib.Path, tests: Sequence[str]) -> bool:
    """Returns whether a test fails in the copy; ends the program if tests could not be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1800)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with status {ended.returncode}:\n{ended.stdout[-2000:]}")
    return ended.returncode == 1


def selected(text: str) -> list[int]:
    """Returns the numbers of rows such as "3,10-14"; all for ""."""
    numbers: list[int] = []
    for part in text.split(",") if text else [f"1-{len(MUTATIONS)}"]:
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="", help="such as 3,10-14; default: all")
    rows = [(number, MUTATIONS[number - 1]) for number in selected(parser.parse_args().rows)]
    texts = {number: changed_text(mutation) for number, mutation in rows}
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "_build", "_generated", "__pycache__"))
        concerned = dict.fromkeys(test for _, mutation in rows for test in mutation.tests)
        if tests_fail(copy, list(concerned)):
            raise SystemExit("The tests fail without any mutation: make them pass first.")
        print("| row | file | mutation | noticed |\n| --- | --- | --- | --- |", flush=True)
        counted = []
        for number, mutation in rows:
            path = copy / mutation.file
            original = path.read_text()
            path.write_text(texts[number])
            failed = tests_fail(copy, mutation.tests)
            path.write_text(original)
            if failed or not mutation.equivalent:
                counted.append(failed)
            result = "yes" if failed else f"equivalent: {mutation.equivalent}" if mutation.equivalent else "**no**"
            print(f"| {number} | {mutation.file.removeprefix('aujax/')} | {mutation.meaning} | {result} |", flush=True)
    share = sum(counted) / max(len(counted), 1)
    print(f"\n{sum(counted)} of {len(counted)} noticed ({100 * share:.0f} %)")
    raise SystemExit(0 if share >= REQUIRED else 1)


if __name__ == "__main__":
    main()
