"""Several processes that train one run together: how they find each other, and which of them writes.

Each drives its own devices, on one machine or many; the run folder and the data set are on a disk that all of them see.
"""

import jax
from jax.experimental import multihost_utils

from aujax.errors import UserError

_PATIENCE = 300  # seconds to wait for the others


def join(*, coordinator: str = "", count: int = 0, index: int = -1, patience: int = _PATIENCE) -> None:
    """Joins the other processes; must come before anything else that JAX does.

    `coordinator` is HOST:PORT of the first process, as all can reach it, `count` how many there are, `index` which one
    this is, from 0. With none of them the three come from SLURM, Open MPI, Kubernetes or the metadata of a TPU.
    """
    given = (bool(coordinator), count > 0, index >= 0)
    if any(given) and not all(given):
        raise UserError(
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=I belong together, "
            f"got {coordinator or 'no coordinator'}, {count or 'no number'}, {index if index >= 0 else 'no id'}"
        )
    if all(given) and index >= count:
        raise UserError(f"--process_id: expected 0 to {count - 1} of {count} processes, got {index}")
    explicit = {"coordinator_address": coordinator, "num_processes": count, "process_id": index} if all(given) else {}
    try:
        jax.distributed.initialize(**explicit, initialization_timeout=patience)
    except ValueError as error:
        raise UserError(
            "--distributed: expected SLURM, Open MPI, Kubernetes or a TPU to tell where the other processes are, "
            f"found none of them ({error}); give --coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"the other processes were not found within {patience} seconds ({str(error).splitlines()[0]}); "
            "start all of them, with a coordinator's address that they can reach"
        ) from error


def is_first() -> bool:
    """Returns whether this is the process that writes logs and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; `what` names the place, the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
