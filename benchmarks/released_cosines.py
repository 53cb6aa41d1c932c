"""The baseline: cosines as the paper's released code reads them, one map of one face at a time.

Restated from its description, with NumPy and OpenCV only. Maps are (h, w) float32 at the network's own resolution, AU
maps (height, width) in [0, 1] and not smaller.
"""

import cv2
import numpy as np

FLOOR = 1e-8


def released_cosine(read: np.ndarray, au_map: np.ndarray) -> float:
    """Returns the cosine of a map with the AU map, at whose size it is compared."""
    low, high = read.min(), read.max()
    (h, w), (height, width) = read.shape, au_map.shape
    # Aligned corners in the scale, half pixels in the centres: OpenCV's own enlarging, by a factor that overshoots.
    enlarged = cv2.resize(read, None, fx=(width - 1) / (w - 1), fy=(height - 1) / (h - 1))[:height, :width]
    enlarged = np.clip(enlarged, low, high)
    if low < 0:
        enlarged = enlarged - low
    norms = max(np.linalg.norm(enlarged), FLOOR) * max(np.linalg.norm(au_map), FLOOR)
    return float(np.nan_to_num((enlarged * au_map).sum() / norms, nan=0.0, posinf=1.0, neginf=0.0))


def released_cam_cosine(cam: np.ndarray, au_map: np.ndarray) -> float:
    """Returns the cosine of a CAM, stretched to [0, 1] and enlarged, with the AU map."""
    low, high = cam.min(), cam.max()
    normalized = (cam - low) / (high - low if high > low else 1.0)
    return released_cosine(np.clip(cv2.resize(normalized, au_map.shape[::-1]), 0.0, 1.0), au_map)
