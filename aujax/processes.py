"""Several processes of one run: values that all of them agree on. JAX's public services alone.

Each process has its own devices, on one machine or several. The run folder and the data set are on a disk that all of
them see. How processes find each other and end together is in `training/process_watch.py`.
"""

import collections
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from aujax.errors import UserError


def is_first() -> bool:
    """Returns whether this is process 0, which writes logs and prints."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has called this function; `name` is that of the barrier, the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def smallest(value: float) -> float:
    """Returns the minimum of `value` across processes, to about seven digits, the same in all of them."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.process_allgather(np.float32(value)).min())


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises the same UserError in every process unless these facts are the same in all.

    Args:
      facts: values by name, fit for JSON.
    """
    if jax.process_count() == 1:
        return
    devices = collections.Counter(device.process_index for device in jax.devices())
    for index, count in sorted(devices.items()):
        if count != devices[0]:  # nothing can be gathered, and no batch divided evenly
            raise UserError(f"process {index} has {count} devices, process 0 has {devices[0]}; give all as many")
    # Gathered as bytes of one length.
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    length = multihost_utils.process_allgather(np.asarray(text.size)).max()
    rows = multihost_utils.process_allgather(np.pad(text, (0, length - text.size), constant_values=ord(" ")))
    if message := difference([json.loads(row.tobytes()) for row in rows]):
        raise UserError(f"{message}; start all processes with the same command, versions, data set and run folder")


def difference(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns a sentence about the first fact in which processes differ; None if there is none.

    >>> difference([{"config.au_weight": 4.0}, {"config.au_weight": 0.0}])
    'process 1 has config.au_weight=0.0, process 0 has 4.0'
    """
    differing = {}
    for name in dict.fromkeys(itertools.chain.from_iterable(facts)):
        # As text, so that nan equals nan.
        values = [json.dumps(process[name], sort_keys=True) if name in process else None for process in facts]
        if len(set(values)) > 1:
            differing[name] = values
    if not differing:
        return None
    (name, values), *others = differing.items()
    value = next(value for value in values if value != values[0])
    indices = [str(index) for index in range(len(values)) if values[index] == value]
    owners = f"process {indices[0]} has" if len(indices) == 1 else f"processes {_enumerated(indices)} have"
    content = f"no {name}" if value is None else f"{name}={value}"
    also = f" (also different: {_enumerated([other for other, _ in others])})" if others else ""
    return f"{owners} {content}, process 0 has {values[0] or 'none'}{also}"


def _enumerated(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + rest
