"""The five-point warp that brings a face to a fixed place in a square image, and points that move with their image.

Points and landmarks are (x, y) pixels, x right and y down, with pixel centres at whole numbers: an image of width w
reaches from x = -0.5 to w - 0.5.
"""

import cv2
import numpy as np
from jaxtyping import Float

from aujax.codebook import MIRRORED
from aujax.data.images import Pixels

Points = Float[np.ndarray, "n 2"]
Matrix = Float[np.ndarray, "2 3"]

SIZE = 224

# Image-left eye, image-right eye, nose tip, left and right mouth corner: the ArcFace template of a 112-pixel
# square, doubled, as in the data preparation of the paper's released code.
TEMPLATE = np.array([(76.589, 103.393), (147.064, 103.003), (112.050, 143.473), (83.099, 184.731), (141.460, 184.408)])


def similarity(source: Points, target: Points) -> Matrix:
    """Returns the rotation, scale and translation M, used as M @ (x, y, 1), that brings `source` closest to `target`.

    The least-squares solution over all points (Umeyama 1991), in its form for the plane: with points as complex
    numbers, M is z -> a z + b. Reflections are excluded: they would exchange the two sides of the face.

    Raises:
      ValueError: all source points are equal.
    """
    z = source[:, 0] + 1j * source[:, 1]
    w = target[:, 0] + 1j * target[:, 1]
    centred = z - z.mean()
    spread = np.sum(np.abs(centred) ** 2)
    if not spread > 0:
        raise ValueError("expected at least two different points, got equal ones, which are not those of a face")
    a = np.sum(np.conj(centred) * (w - w.mean())) / spread
    b = w.mean() - a * z.mean()
    return np.array([(a.real, -a.imag, b.real), (a.imag, a.real, b.imag)])


def inverse_similarity(source: Points, target: Points) -> Matrix:
    """Returns the matrix of the released preparation: `target` fitted to `source`, also mirrored, and inverted.

    It minimises distances in the photograph instead of the template. For frontal faces landmarks differ from those of
    `similarity` by 0.1 to 3 pixels, at 40 to 65 degrees of yaw by 3 to 20. Of the plain and the mirrored fit, the one
    that moves `source` closer to `target` is returned, the plain one if both are equally close.

    Raises:
      ValueError: all source points are equal.
    """
    candidates = []
    for side in (1, -1):
        fit = similarity(target * (side, 1), source)
        if not np.linalg.det(fit[:, :2]) > 0:
            raise ValueError("expected at least two different points, got equal ones, which are not those of a face")
        inverse = np.linalg.inv(np.vstack([fit, (0, 0, 1)]))[:2]
        candidates.append(np.diag((side, 1)) @ inverse)
    return min(candidates, key=lambda matrix: np.linalg.norm(move(source, matrix) - target))


# The values of --align that warp: how the matrix from a face's five points to `TEMPLATE` is fitted.
FITS = {
    "five-point": similarity,
    "five-point/reference": inverse_similarity,
}


def five_points(landmarks: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "5 2"]:
    """Returns the eye centres, the nose tip and the mouth corners of 68 landmarks, in the order of `TEMPLATE`."""
    return np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0), *landmarks[[30, 48, 54]]])


def warp(pixels: Pixels, matrix: Matrix) -> Pixels:
    """Returns the image moved by `matrix` into a square of `SIZE` pixels: bilinear, black outside the image."""
    return cv2.warpAffine(pixels, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR)


def resize(pixels: Pixels, size: tuple[int, int]) -> tuple[Pixels, Matrix]:
    """Returns the image resized to (width, height), and the matrix that moves its points along."""
    x, y = size[0] / pixels.shape[1], size[1] / pixels.shape[0]
    matrix = np.array([(x, 0, (x - 1) / 2), (0, y, (y - 1) / 2)])  # as `codebook.rescale_landmarks`
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), matrix


def resize_to_square(pixels: Pixels) -> tuple[Pixels, Matrix]:
    """Returns the whole image resized to a square of `SIZE` pixels, and the matrix that moves its points along."""
    return resize(pixels, (SIZE, SIZE))


def move(points: Points, matrix: Matrix) -> Points:
    """Returns the points moved by `matrix`."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def move_landmarks(landmarks: Float[np.ndarray, "68 2"], matrix: Matrix) -> Float[np.ndarray, "68 2"]:
    """Returns the 68 landmarks moved by `matrix`, in the order of the mirrored face if it mirrors."""
    moved = move(landmarks, matrix)
    return moved if np.linalg.det(matrix[:, :2]) > 0 else moved[list(MIRRORED)]
