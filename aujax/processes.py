"""Several processes of one run: how they find each other, agree on values, and end together.

Each process has its own devices, on one machine or several. The run folder and the data set are on a disk that all of
them see. Values are exchanged through JAX's public services.

Why the end of a run is not left to JAX: its public services (tried with JAX 0.10) do not let it end with a message.

* `jax.distributed.initialize(heartbeat_timeout_seconds=...)`: when a process is lost or fails, the others are ended by
  SIGABRT (status 134) with a stack of C++, about the timeout later; the reason of the one that failed is not passed on.
* `multihost_utils.live_devices` with `jax_enable_recoverability` (both experimental): a process can learn that another
  one is lost, within the timeout and where all call it regularly, but again not the reason of one that failed.

So every process has a thread that writes a sign of life and looks for those of the others, in the key-value store of
JAX's coordination service. The store has no public name; `multihost_utils`, which is public, refers to its client. That
is the only private object used here, in `join`.
"""

import collections
import contextlib
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from aujax.errors import UserError

LOST_AFTER = 30  # seconds without a sign of life
JOIN_TIMEOUT = 300  # seconds to wait for the others at the start
STOPPED = 1  # exit status of a process that ends because another one did
_INTERVAL = 1.0  # seconds between two signs of life
_GRACE = 3.0  # seconds within which the others learn why a process stops
_REMEDY = "Start all processes again with the same command: they continue from the last checkpoint."
_JOIN_REMEDY = "start all of them, with a coordinator's address that they can reach and whose port is free"
_ALIVE = "aujax/alive/"  # keys in the store
_REASON = "aujax/stopped"
_FINISHED = "finished"
# Errors of the runtimes of CPU, GPU and TPU when the other end of a connection is gone.
_BROKEN = re.compile(r"gloo|nccl|connection|socket|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|heartbeat", re.IGNORECASE)
_watch: "Watch | None" = None  # begins in `join`, ends in `watched`


def is_first() -> bool:
    """Returns whether this is process 0, which writes logs and prints."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has called this function; `name` is that of the barrier, the same in all of them."""
    multihost_utils.sync_global_devices(name)


def broadcast(value: float) -> float:
    """Returns the value of process 0 in every process; in the others to about seven digits."""
    shared = multihost_utils.broadcast_one_to_all(np.float32(value))
    return value if is_first() else float(shared)


def smallest(value: float) -> float:
    """Returns the minimum of `value` across processes, to about seven digits, the same in all of them."""
    return float(multihost_utils.process_allgather(np.float32(value)).min())


def total(array: np.ndarray) -> np.ndarray:
    """Returns the sum of an array over all processes, of the same type, the same in all of them."""
    return multihost_utils.process_allgather(array).sum(0, dtype=array.dtype)


def gathered(array: jax.Array | np.ndarray) -> np.ndarray:
    """Returns all rows of a `jax.Array` that is divided over the devices, or of host arrays, each process's part."""
    return multihost_utils.process_allgather(array, tiled=True)


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises the same UserError in every process unless these facts are the same in all.

    Args:
      facts: values by name, fit for JSON.
    """
    devices = collections.Counter(device.process_index for device in jax.devices())
    for index, count in sorted(devices.items()):
        if count != devices[0]:  # nothing can be gathered, and no batch divided evenly
            raise UserError(f"process {index} has {count} devices, process 0 has {devices[0]}; give all as many")
    # Gathered as bytes of one length.
    text = json.dumps(facts).encode()
    length = multihost_utils.process_allgather(np.asarray(len(text))).max()
    rows = multihost_utils.process_allgather(np.frombuffer(text.ljust(length), np.uint8))
    if message := difference([json.loads(row.tobytes()) for row in rows]):
        raise UserError(f"{message}; start all processes with the same command, versions, data set and run folder")


def difference(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns a sentence about the first fact in which processes differ; None if there is none.

    >>> difference([{"config.au_weight": 4.0}, {"config.au_weight": 0.0}])
    'process 1 has config.au_weight=0.0, process 0 has 4.0'
    """

    differing = {}
    for name in dict.fromkeys(itertools.chain(*facts)):
        # As text, so that nan equals nan; "" in a process without that fact.
        values = [json.dumps(process[name], sort_keys=True) if name in process else "" for process in facts]
        if len(set(values)) > 1:
            differing[name] = values
    if not differing:
        return None
    name, *others = differing
    values = differing[name]
    value = next(value for value in values if value != values[0])
    owners = [str(index) for index, other in enumerate(values) if other == value]
    have = "processes {} have" if len(owners) > 1 else "process {} has"
    content = f"{name}={value}" if value else f"no {name}"
    also = f" (also different: {_enumerated(others)})" if others else ""
    return f"{have.format(_enumerated(owners))} {content}, process 0 has {values[0] or 'none'}{also}"


def _enumerated(names):
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + rest


def join(
    *,
    coordinator: str = "",
    count: int = 0,
    index: int = -1,
    join_timeout: int = JOIN_TIMEOUT,
    lost_after: int = LOST_AFTER,
) -> None:
    """Joins the other processes; must come before anything else that JAX does, inside `watched`.

    Without `coordinator`, `count` and `index` they come from SLURM, Open MPI, Kubernetes or the metadata of a TPU.

    Args:
      coordinator: HOST:PORT of process 0, as all can reach it.
      count: number of processes.
      index: of this process, from 0.
      join_timeout: seconds to wait for the others.
      lost_after: seconds without a sign of life after which a process is lost.

    Raises:
      UserError: the three are incomplete, or cannot be determined, or the others cannot be reached.
    """
    given = [coordinator, count > 0, index >= 0]
    if any(given) and not all(given):
        raise UserError(
            "--coordinator=HOST:PORT, --num-processes=N and --process-id=I belong together, "
            f"got {coordinator or 'no coordinator'}, {count or 'no number'}, {index if index >= 0 else 'no id'}"
        )
    explicit: dict[str, Any] = {}
    if coordinator:
        if index >= count:
            raise UserError(f"--process-id: expected 0 to {count - 1} of {count} processes, got {index}")
        explicit = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        explicit["cluster_detection_method"] = "deactivate"  # under SLURM it would take one GPU a process
    # SIGTERM must also end a process that has joined others; JAX would only record it and continue.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX notices a lost process after half of this at the earliest and then aborts with a stack of C++: only for the
    # case that the watch cannot.
    heartbeat = 2 * (lost_after + 30)

    def give_up():
        wait = "or wait longer with --join-timeout=SECONDS"
        message = f"error: the other processes were not found within {join_timeout} seconds; {_JOIN_REMEDY}, {wait}"
        print(message, file=sys.stderr, flush=True)
        os._exit(STOPPED)

    # JAX's own timeout, too, would abort with a stack of C++.
    timer = threading.Timer(join_timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **explicit, initialization_timeout=2 * join_timeout, heartbeat_timeout_seconds=heartbeat
        )
    except ValueError as error:
        raise UserError(
            "--distributed: expected SLURM, Open MPI, Kubernetes or a TPU to describe the other processes, "
            f"found none of them ({error}); give --coordinator, --num-processes and --process-id"
        ) from error
    except RuntimeError as error:
        raise UserError(f"the other processes cannot be joined: {error}; {_JOIN_REMEDY}") from error
    finally:
        timer.cancel()
    global _watch
    services: Any = multihost_utils
    state = services.distributed.global_state  # private: see the module docstring
    if state.num_processes > 1:
        _watch = Watch(state.client, state.process_id, state.num_processes, lost_after)
        _watch.start()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Ends this process at once if it fails and others have joined it, with a message to them; they end, too.

    Must enclose all other work, messages to the user included: at an ordinary end JAX waits minutes for the others,
    which wait for this one.
    """
    try:
        yield
    except BaseException as error:
        if _watch is None:
            raise
        _watch.fail(error)
    if _watch is not None:
        _watch.finish()


class Watch(threading.Thread):
    """Gives signs of life to the other processes and looks for theirs, until one of them stops or is lost."""

    def __init__(self, client: Any, index: int, count: int, lost_after: float):
        """Communicates through JAX's `client`, which is connected to process 0."""
        super().__init__(daemon=True)
        self._client = client
        self._index = index
        self._lost_after = lost_after
        self._signs = dict.fromkeys(range(count), ("", time.monotonic()))  # last sign, and when it came
        self._finished = threading.Event()
        self._failing = threading.Event()
        self._leaving = threading.Lock()

    def run(self) -> None:
        """Returns when all have finished; ends the process when another process has stopped or is lost."""
        for beat in itertools.count():
            sign = _FINISHED if self._finished.is_set() else str(beat)
            try:
                self._client.key_value_set(
                    f"{_ALIVE}{self._index}", f"{socket.gethostname()} {sign}", allow_overwrite=True
                )
                reason = self._reason(_INTERVAL) or self._lost()
            except RuntimeError as error:  # at once: JAX is about to abort this process with a stack of C++
                self._leave(STOPPED, message=f"process 0 was lost ({_first_line(error)})")
            if self._failing.wait(_INTERVAL if reason else 0):  # this process may be about to report the same itself
                return
            if reason:
                self._leave(STOPPED, message=reason, reason=reason)
            if all(sign.endswith(_FINISHED) for sign, _ in self._signs.values()):
                return

    def finish(self) -> None:
        """Returns when all have finished: JAX would wait for them as well, but without a message if one is lost."""
        self._finished.set()
        self.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Ends the process with the error's status, or with the reason of a broken connection."""
        stopped = f"process {self._index} stopped: "
        if isinstance(error, SystemExit):  # after a message to the user; its cause is the context of the exit
            self._failing.set()
            status = error.code if isinstance(error.code, int) else STOPPED
            self._leave(status, reason=stopped + _first_line(error.__context__ or error))
        if broken := broken_connection(error):
            message = f"another process was lost or cannot be reached ({broken})"
            reason = ""
            with contextlib.suppress(RuntimeError):  # process 0 may be the lost one
                message = reason = self._reason(_GRACE) or message
            self._leave(STOPPED, message=message, reason=reason)
        self._failing.set()
        traceback.print_exception(error)
        self._leave(STOPPED, reason=f"{stopped}{type(error).__name__}: {_first_line(error)}")

    def _leave(self, status, *, message="", reason="") -> NoReturn:
        """Prints the message, sends the others the reason, and ends this process without waiting for any of them."""
        self._leaving.acquire()  # never released, so that only one thread reports
        if message:
            print(f"\nerror: {message}\n{_REMEDY}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if reason:
            with contextlib.suppress(RuntimeError):  # another process was quicker
                self._client.key_value_set(_REASON, reason)
            if self._index == 0:
                time.sleep(_GRACE)  # the store is in this process
        os._exit(status)

    def _reason(self, seconds):
        """Returns why another process stopped; None if none has stopped within this time."""
        try:
            return self._client.blocking_key_value_get(_REASON, int(1000 * seconds))
        except RuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise

    def _lost(self):
        """Returns the message for a process that has given no new sign for too long; None if there is none."""
        now = time.monotonic()
        for name, sign in self._client.key_value_dir_get(_ALIVE):
            index = int(name.rpartition("/")[2])
            if sign != self._signs[index][0] or sign.endswith(_FINISHED):
                self._signs[index] = (sign, now)
        for index, (sign, when) in self._signs.items():
            if now - when > self._lost_after:
                host = f" on {sign.split()[0]}" if sign else ""
                return f"process {index}{host} was lost: no sign of life for {self._lost_after} seconds"
        return None


def broken_connection(error: BaseException | None) -> str | None:
    """Returns JAX's message about a broken connection; None if the error has another cause."""
    while error:
        if isinstance(error, jax.errors.JaxRuntimeError) and _BROKEN.search(str(error)):
            return _first_line(error)
        error = error.__cause__ or error.__context__
    return None


def _first_line(error):
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
