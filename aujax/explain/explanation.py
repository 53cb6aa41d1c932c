"""The explanation of one face.

Boxes (left, top, right, bottom) and landmarks are pixels of the photograph. Maps are float32 (h, w) at the network's
own resolution over the aligned face, not normalised. Images are RGB uint8.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

Pixels = UInt8[np.ndarray, "_ _ 3"]


class Region(NamedTuple):
    """The region of one or several action units (AUs) on the face, and what the network does with it.

    Attributes:
      aus: FACS numbers of the action units that share exactly this region.
      place: the region's name, such as "the lip corners".
      target_aus: those of `aus` that the codebook lists for the predicted expression.
      area: the fraction of the image that the region covers.
      attention: the fraction of the attention, counted from its minimum, inside the region.
      cam: the same for the CAM of the predicted expression; None for a method without CAM.
      probability_drop: the drop of the predicted expression's probability when the region is occluded; negative for a
        rise.
    """

    aus: tuple[int, ...]
    place: str
    target_aus: tuple[int, ...]
    area: float
    attention: float
    cam: float | None
    probability_drop: float

    @property
    def attention_density(self) -> float:
        """The mean attention in the region, relative to the mean of the image."""
        return self.attention / self.area if self.area > 0 else 0.0

    @property
    def cam_density(self) -> float | None:
        """The mean CAM in the region, relative to the mean of the image."""
        if self.cam is None:
            return None
        return self.cam / self.area if self.area > 0 else 0.0


class Explanation(NamedTuple):
    """The explanation of one face.

    Attributes:
      image: the path of the photograph or video, "image 1" for the first array.
      second: the time in a video; None for a photograph.
      face: the rank among the `faces` detected in the photograph, from 1, the most prominent first.
      faces: the number of detected faces.
      box: the bounding box of the face.
      landmarks: the 68 landmarks; None if there are none.
      thumbnail: the face and its surroundings.
      aligned: the aligned face, which the network gets at its input size.
      expression: the predicted expression.
      probability: of the predicted expression.
      probabilities: of every expression, in the codebook's order.
      attention: of the layer that the AU alignment acts on.
      cam: the class activation map of the predicted expression; None for a method without CAM.
      au_map: of the predicted expression, in [0, 1]; None without landmarks or target AUs.
      degenerate: those of "attention" and "cam" that are constant or not finite.
      regions: of every action unit inside the image, by FACS number; () without landmarks.
      control_drop: the mean drop of the probability when equal areas elsewhere are occluded; None without regions to
        compare with.
      attention_outside: the fraction of the attention outside the face; None without landmarks.
      text: a summary in one sentence.
      warnings: the reasons not to rely on this explanation.
    """

    image: str
    second: float | None
    face: int
    faces: int
    box: tuple[float, float, float, float]
    landmarks: Float[np.ndarray, "68 2"] | None
    thumbnail: Pixels
    aligned: Pixels
    expression: str
    probability: float
    probabilities: dict[str, float]
    attention: Float[np.ndarray, "h w"]
    cam: Float[np.ndarray, "h w"] | None
    au_map: Float[np.ndarray, "height width"] | None
    degenerate: tuple[str, ...]
    regions: tuple[Region, ...]
    control_drop: float | None
    attention_outside: float | None
    text: str
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The image's name, the time in a video, and the face's number if there are several."""
        time = "" if self.second is None else f" at {self.second:.2f} s"
        number = f", face {self.face} of {self.faces}" if self.faces > 1 else ""
        return f"{self.image}{time}{number}"

    @property
    def strongest(self) -> Region | None:
        """The region whose occlusion lowers the predicted probability most."""
        return max(self.regions, key=lambda region: region.probability_drop, default=None)

    def without_images(self) -> "Explanation":
        """Returns the explanation with empty images and maps, to save memory: its row of the tables is the same."""
        image = np.zeros((0, 0, 3), np.uint8)
        map_ = np.zeros((0, 0), np.float32)
        return self._replace(thumbnail=image, aligned=image, attention=map_, cam=None, au_map=None)
