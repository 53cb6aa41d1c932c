"""Small folders of photographs for the tests, and short words for listing and preparing them."""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from aujax import cli
from aujax.data.prepare import SOURCES
from aujax.data.sources import Listing
from aujax.data.synthetic import draw_face

NAMES = ["happy", "sad", "neutral", "surprise"] * 6


def blocks(number: int, *, height: int = 24, width: int = 32) -> np.ndarray:
    """An RGB image of random blocks of 8 pixels, another one for each `number`."""
    values = np.random.default_rng((7, number)).integers(0, 255, (-(-height // 8), -(-width // 8), 3))
    return np.kron(values, np.ones((8, 8, 1))).astype(np.uint8)[:height, :width]


def write_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1])
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def labelled_folder(folder: Path, expressions: list[str], *, subjects: list[str] | None = None) -> Path:
    """A folder with labels.csv and one image per expression given, a/000.png, a/001.png, ..."""
    rows = []
    for number, expression in enumerate(expressions):
        name = f"a/{number:03d}.png"
        write_image(folder / name, blocks(number))
        rows.append({"image": name, "expression": expression} | ({"subject_id": subjects[number]} if subjects else {}))
    write_csv(folder / "labels.csv", rows)
    return folder


def landmarks_within(width: float, height: float, *, seed: int = 0) -> np.ndarray:
    """68 points spread over an image of this size."""
    points = np.random.default_rng(seed).uniform(0.05, 0.95, (68, 2))
    return (points * (width, height)).astype(np.float32)


def run(*arguments: object) -> None:
    """Runs `aujax prepare`; a mistake ends it with SystemExit."""
    cli.main(["prepare", *map(str, arguments), "--jobs=1"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message with which these arguments are refused."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def drawn_folder(folder: Path, count: int = 8) -> Path:
    """A folder of drawn faces, which dlib finds, without their landmarks."""
    for index in range(count):
        write_image(folder / "happy" / f"{index}.png", draw_face(0, index, size=120).image)
    return folder


def listing(name: str, *arguments: object) -> Listing:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--landmarks", default="")
    SOURCES[name].add_options(parser)
    return SOURCES[name].list_images(parser.parse_args([str(argument) for argument in arguments]))


def labels(found: Listing) -> dict[str, str]:
    return {image.id: found.expressions[image.expression] for image in found.images}


def splits(found: Listing) -> dict[str, str]:
    return {image.id: image.split for image in found.images}
