"""What is told about one face.

Boxes (left, top, right, bottom) and landmarks are pixels of the photograph. Maps are float32 (h, w) at the network's
own resolution over the aligned picture, not normalised. Pictures are RGB uint8.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

Pixels = UInt8[np.ndarray, "_ _ 3"]


class Region(NamedTuple):
    """The place of one or several action units (AUs) on the face, and what the network does with it.

    Attributes:
      aus: FACS numbers of the units that have exactly this place.
      place: the place in words.
      listed: those of `aus` that the codebook lists for the predicted expression.
      area: its share of the picture.
      attention: the share of the attention, taken from its least value, that falls into it.
      cam: the same for the CAM of the predicted expression; None for a method without CAM.
      effect: how much of the predicted expression's probability is lost when it is hidden; below 0: gained.
    """

    aus: tuple[int, ...]
    place: str
    listed: tuple[int, ...]
    area: float
    attention: float
    cam: float | None
    effect: float

    @property
    def density(self) -> float:
        """Attention in the region in units of the picture's average."""
        return self.attention / self.area if self.area > 0 else 0.0

    @property
    def cam_density(self) -> float | None:
        """CAM in the region in units of the picture's average."""
        return None if self.cam is None else self.cam / self.area if self.area > 0 else 0.0


class Explanation(NamedTuple):
    """The explanation of one face.

    Attributes:
      photo: the path of the photograph or video, "photo 1" for the first array.
      second: the time in a video; None for a photograph.
      face: which of the `faces` found in the photograph, from 1, the most prominent first.
      faces: how many were found.
      box: of the face.
      landmarks: the 68 points, None where there are none.
      crop: the face and its surroundings.
      picture: the face as it was aligned, which the network sees at its own size.
      expression: the predicted one.
      probability: of the predicted expression.
      probabilities: of every expression, in the codebook's order.
      attention: of the layer that alignment pulls on.
      cam: the class activation map of the predicted expression; None for a method without.
      au_map: where the codebook places the predicted expression, in [0, 1]; None without landmarks or action units.
      flat: which of "attention" and "cam" have no pattern.
      regions: of every action unit that lies in the picture, in the order of FACS; () without landmarks.
      control: the probability lost when as much is hidden elsewhere; None without action units to compare with.
      outside: the share of the attention outside the face; None without landmarks.
      text: all that in a sentence or two.
      warnings: what stands against trusting it.
    """

    photo: str
    second: float | None
    face: int
    faces: int
    box: tuple[float, float, float, float]
    landmarks: Float[np.ndarray, "68 2"] | None
    crop: Pixels
    picture: Pixels
    expression: str
    probability: float
    probabilities: dict[str, float]
    attention: Float[np.ndarray, "h w"]
    cam: Float[np.ndarray, "h w"] | None
    au_map: Float[np.ndarray, "height width"] | None
    flat: tuple[str, ...]
    regions: tuple[Region, ...]
    control: float | None
    outside: float | None
    text: str
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The face in words: its photograph, its time in a video, its number where there are several."""
        when = "" if self.second is None else f" at {self.second:.2f} s"
        which = f", face {self.face} of {self.faces}" if self.faces > 1 else ""
        return f"{self.photo}{when}{which}"

    def without_pictures(self) -> "Explanation":
        """Returns the same with empty pictures and maps: a page cannot show it, tables hold all of it."""
        nothing, nowhere = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.float32)
        return self._replace(crop=nothing, picture=nothing, attention=nowhere, cam=None, au_map=None)

    @property
    def strongest(self) -> Region | None:
        """The region whose hiding lowers the predicted expression most."""
        return max(self.regions, key=lambda region: region.effect, default=None)
