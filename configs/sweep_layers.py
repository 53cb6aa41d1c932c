"""The paper's Table 3: the aligned layers, one or several, and a row without alignment.

Run:    aujax sweep --config=sweep_layers --out=runs/layers \
          --config.data.dir=data/rafdb --config.weights=hf:timm/resnet50.tv_in1k
Table:  aujax report table3 runs/layers --out tables
Another base, a shipped configuration or a file:  --config=sweep_layers:faces:small

The paper's setting is CAM with a ResNet-50 on RAF-DB. Of several layers the losses are averaged, as in the released
code; the paper's Eq. 3 adds them up (--config.au_layer_reduction=sum).
"""

import pathlib
from typing import Any

from aujax import config

_LAYERS = ("layer1", "layer2", "layer3", "layer4", "layer5")
_SETS = (*((layer,) for layer in _LAYERS), *(_LAYERS[first:] for first in (3, 2, 1, 0)))
ROWS = ({"au_weight": 0.0}, *({"au_layers": layers} for layers in _SETS))


def get_config(base: str = "rafdb") -> dict[str, Any]:
    """Returns the options that all rows share: those of another configuration file."""
    return config.file_options(base, folder=pathlib.Path(__file__).parent)
