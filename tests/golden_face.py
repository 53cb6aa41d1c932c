"""The golden face: landmarks on a 224 x 224 canvas, test features, and what the released code makes of them."""

import functools

import jax
import numpy as np

_POINTS = """
32,90 33,111 38,132 45,151 55,167 67,181 81,191 96,197 112,200
127,197 142,191 156,181 168,167 178,151 185,132 190,111 192,90
50,78 61,75 72,74 83,75 94,78 130,78 141,75 152,74 163,75 174,78
112,90 112,102 112,114 112,126 96,136 104,138 112,139 120,138 128,136
60,96 69,90 79,90 88,96 79,102 69,102 136,96 145,90 155,90 164,96 155,102 145,102
82,164 86,157 97,152 112,151 127,152 137,157 142,164 137,170 127,175 112,177 97,175 86,170
94,164 99,160 112,159 124,160 130,164 124,167 112,169 99,167
"""
LANDMARKS = np.array([[float(number) for number in pair.split(",")] for pair in _POINTS.split()], np.float32)

# Sum of each action unit's 28 x 28 cells before the blur, drawn with 255 on 1e-4.
CELL_SUMS = {
    **{1: 15810.0722, 2: 15810.0722, 4: 5801.3261, 5: 2805.0773, 6: 11857.5737, 7: 6056.3260, 9: 9817.5745},
    **{10: 10327.5743, 12: 10518.8243, 14: 10518.8243, 15: 10518.8243, 16: 10391.3243, 17: 2550.0774},
    **{20: 10008.8245, 23: 5100.0764, 24: 5100.0764, 25: 6375.0759, 26: 5100.0764, 27: 5100.0764, 43: 6056.3260},
}

# Per expression: mean, L2 norm, cosine with a constant map, and the values at PIXELS (row, column).
PIXELS = ((60, 60), (78, 90), (96, 150), (133, 74), (164, 82), (190, 112))
MAPS = {
    "Happiness": (0.108291, 60.44872, 0.4013, (0, 0, 0, 1, 0.998698, 0.340278)),
    "Surprise": (0.145680, 71.64796, 0.4555, (0.687500, 1, 0.559028, 0, 0.376302, 0)),
    "Fear": (0.178511, 79.58073, 0.5025, (0.687500, 1, 0.559028, 0, 0.687500, 0.458333)),
    "Anger": (0.119610, 59.96561, 0.4468, (0.000434, 0.671441, 0.890951, 0.416233, 0.812500, 0.429253)),
    "Disgust": (0.124159, 63.87423, 0.4354, (0, 0.023872, 0.559028, 0.073351, 0.979492, 0.429253)),
    "Sadness": (0.182805, 79.12460, 0.5175, (0.361545, 1, 0.444444, 1, 0.998698, 0.429253)),
}

_Y, _X = np.mgrid[:28, :28].astype(np.float32)
T1 = np.sin(0.3 * _Y) + np.cos(0.2 * _X) + 2
T2 = T1 - 2
T3 = T1 * T2


@functools.cache
def reference_maps() -> dict[str, np.ndarray]:
    """Returns our map of the golden face for every expression, drawn with the released code's codebook."""
    from aujax import au_maps, codebook

    draw = jax.vmap(functools.partial(au_maps.au_map, codebook=codebook.REFERENCE), in_axes=(None, 0))
    maps, _ = jax.jit(draw)(LANDMARKS, np.arange(len(codebook.EXPRESSIONS)))
    return dict(zip(codebook.EXPRESSIONS, np.asarray(maps), strict=True))
