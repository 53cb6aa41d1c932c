"""BatchNorm as the published networks have it, in torch's terms eps 1e-5 and momentum 0.1."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn


def batch_norm(*, train: bool, dtype: Any, axis_name: str | None) -> Callable[..., nn.BatchNorm]:
    """Returns the layer but for its name: it keeps 0.9 of its running statistics at a step.

    Training uses the batch's own, averaged over the mesh axis `axis_name` or, where that is None, the device's own.
    """
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
    )
