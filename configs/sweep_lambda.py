"""The paper's Fig. 5: how much weight alignment has (lambda of Eq. 3, `au_weight`), from none to 20.

Run:     aujax sweep --config=sweep_lambda --out=runs/lambda \
           --config.data.dir=data/rafdb --config.weights=hf:timm/resnet50.tv_in1k
Figure:  aujax report figure5 runs/lambda --out figures
Another base, a shipped configuration or a file:  --config=sweep_lambda:faces:small

The paper's setting is CAM with a ResNet-50 on RAF-DB, aligned at layer 5. Its figure is a drawing without numbers:
the text says that the values range "from less than 1 to 20", that the accuracy grows up to about 4, and that the
cosines stop growing at about 8. The values are ours, closer together where the curves bend.
"""

import pathlib
from typing import Any

from aujax import config

ROWS = tuple({"au_weight": weight} for weight in (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0))


def get_config(base: str = "rafdb") -> dict[str, Any]:
    """Returns the options that all rows share: those of another configuration file."""
    return config.file_options(base, folder=pathlib.Path(__file__).parent)
