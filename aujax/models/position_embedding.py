"""Learned position embeddings: (1, 1 + tokens, channels), the class token's own part first, as timm stores them."""

import math

import jax
import numpy as np


def resampled(embedding: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the embedding for another number of patch tokens, as timm does it: bicubic with antialiasing.

    The class token's part is kept. One whose grid or whose wanted grid is not square comes back as it was.
    """
    if embedding.ndim != 3 or embedding.shape[1] == 1 + tokens:
        return embedding
    side, our_side, channels = math.isqrt(embedding.shape[1] - 1), math.isqrt(tokens), embedding.shape[2]
    if side**2 != embedding.shape[1] - 1 or our_side**2 != tokens:
        return embedding
    grid = embedding[0, 1:].reshape(side, side, channels).astype(np.float32)
    grid = np.asarray(jax.image.resize(grid, (our_side, our_side, channels), "cubic", antialias=True))
    return np.concatenate([embedding[:, :1], grid.reshape(1, -1, channels)], axis=1)
