"""Several processes that train one run together: how they find each other, agree, and end together.

Each drives its own devices, on one machine or many; the run folder and the data set are on a disk that all of them see.
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
STOPPED = 1  # exit status of a process that ends because another one did
_PATIENCE = 300  # seconds to wait for the others at the start
_PAUSE = 1.0  # seconds between two signs of life
_GRACE = 3.0  # seconds within which the others hear why a process stops
_AGAIN = "Start all processes again with the same command: they continue from the last checkpoint."
_FIND = "start all of them, with a coordinator's address that they can reach and whose port is free"
_ALIVE, _FINISHED, _REASON = "aujax/alive/", "finished", "aujax/stopped"
# What the runtimes of CPU, GPU and TPU say when the other end of a connection is gone.
_BROKEN = re.compile(r"gloo|nccl|connection|socket|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|heartbeat", re.IGNORECASE)
_watch: "_Watch | None" = None  # begins in `join`, ends in `watched`


def join(
    *, coordinator: str = "", count: int = 0, index: int = -1, patience: int = _PATIENCE, lost_after: int = LOST_AFTER
) -> None:
    """Joins the other processes; must come before anything else that JAX does, inside `watched`.

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
    explicit: dict[str, Any] = {}
    if all(given):
        explicit = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
        explicit["cluster_detection_method"] = "deactivate"  # under SLURM it would take one GPU a process
    # SIGTERM is to end one of several as it ends one alone; JAX would take note of it and go on.
    jax.config.update("jax_enable_preemption_service", False)
    with _deadline(patience, f"the other processes were not found within {patience} seconds; {_FIND}"):
        _initialize(explicit, patience, lost_after)
    _begin_watch(lost_after)


def _initialize(explicit: dict[str, Any], patience: int, lost_after: int) -> None:
    try:
        # JAX notices a lost process after half of this at the earliest and then aborts with a stack of C++: only for
        # when the watch cannot.
        heartbeat = 2 * (lost_after + 30)
        jax.distributed.initialize(**explicit, initialization_timeout=2 * patience, heartbeat_timeout_seconds=heartbeat)
    except ValueError as error:
        raise UserError(
            "--distributed: expected SLURM, Open MPI, Kubernetes or a TPU to tell where the other processes are, "
            f"found none of them ({error}); give --coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        raise UserError(f"the other processes cannot be joined: {error}; {_FIND}") from error


@contextlib.contextmanager
def _deadline(seconds: float, message: str) -> Iterator[None]:
    """Ends the program with the message unless the block is done in time: JAX would abort it with a stack of C++."""

    def give_up() -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(STOPPED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first() -> bool:
    """Returns whether this is the process that writes logs and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; `what` names the place, the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def least(value: float) -> float:
    """Returns the smallest of the processes' values, to about seven digits, the same in all of them."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.process_allgather(np.float32(value)).min())


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises the same UserError in every process if these facts, by name and fit for JSON, are not those of all."""
    if jax.process_count() == 1:
        return
    if told := difference(_gathered(facts)):
        raise UserError(f"{told}; start all processes with the same command, versions, data set and run folder")


def difference(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns what the first fact is that the processes do not share, which of them has what; None if they agree.

    >>> difference([{"config.au_weight": 4.0}, {"config.au_weight": 0.0}])
    'process 1 has config.au_weight=0.0, process 0 has 4.0'
    """
    names = dict.fromkeys(itertools.chain.from_iterable(facts))
    # As text, so that nan is nan.
    values = {name: [json.dumps(one[name], sort_keys=True) if name in one else None for one in facts] for name in names}
    differing = [name for name in names if len(set(values[name])) > 1]
    if not differing:
        return None
    name = differing[0]
    first = values[name][0]
    other = next(value for value in values[name] if value != first)
    who = [str(index) for index, value in enumerate(values[name]) if value == other]
    have = f"process {who[0]} has" if len(who) == 1 else f"processes {_enumerated(who)} have"
    told = f"{have} {f'no {name}' if other is None else f'{name}={other}'}, process 0 has {first or 'none'}"
    return told if len(differing) == 1 else f"{told} (also different: {_enumerated(differing[1:])})"


def _enumerated(words: Sequence[str]) -> str:
    rest = f" and {len(words) - 6} more" if len(words) > 6 else ""
    return ", ".join(words[:6]) + rest


def _gathered(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the facts of all processes, in their order."""
    devices = collections.Counter(device.process_index for device in jax.devices())
    for index, count in sorted(devices.items()):
        if count != devices[0]:  # nothing can be gathered, and no batch divided evenly
            raise UserError(f"process {index} has {count} devices, process 0 has {devices[0]}; give all as many")
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    length = multihost_utils.process_allgather(np.asarray(text.size)).max()
    rows = multihost_utils.process_allgather(np.pad(text, (0, length - text.size), constant_values=ord(" ")))
    return [json.loads(row.tobytes()) for row in rows]


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Ends this process at once if it fails and others have joined it, and tells them; they end, too.

    Goes around everything else, messages to the user included: at an ordinary end JAX waits minutes for the others,
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


def _begin_watch(lost_after: float) -> None:
    global _watch
    # What processes tell each other has no public name yet; Orbax takes it from the same place.
    from jax._src import distributed

    state = distributed.global_state
    if state.num_processes > 1:
        _watch = _Watch(state.client, state.process_id, state.num_processes, lost_after)
        _watch.start()


def _broken_connection(error: BaseException | None) -> str | None:
    """Returns what JAX says of a connection that broke, None if the error comes from something else."""
    while error:
        if isinstance(error, jax.errors.JaxRuntimeError) and _BROKEN.search(str(error)):
            return _line(error)
        error = error.__cause__ or error.__context__
    return None


def _line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


class _Watch(threading.Thread):
    """Gives signs of life to the other processes and looks for theirs, until one of them stops or is lost."""

    def __init__(self, client: Any, index: int, count: int, lost_after: float):
        """Speaks and hears through JAX's `client`, which is connected to process 0."""
        super().__init__(daemon=True)
        self._client, self._index, self._lost_after = client, index, lost_after
        self._seen = dict.fromkeys(range(count), ("", time.monotonic()))  # last sign, and when it came
        self._finished, self._failing = threading.Event(), threading.Event()
        self._leaving = threading.Lock()

    def run(self) -> None:
        """Returns when all have finished; leaves the program when another process has stopped or is lost."""
        for beat in itertools.count():
            try:
                self._give_sign(_FINISHED if self._finished.is_set() else str(beat))
                told = self._heard(_PAUSE) or self._silent()
            except RuntimeError as error:  # at once: JAX is about to abort this process with a stack of C++
                self._leave(STOPPED, told=f"process 0 was lost ({_line(error)})")
            if self._failing.wait(_PAUSE if told else 0):  # this process may be about to say the same itself
                return
            if told:
                self._leave(STOPPED, told=told, reason=told)
            if all(sign.endswith(_FINISHED) for sign, _ in self._seen.values()):
                return

    def finish(self) -> None:
        """Returns when all have finished: JAX would wait for them as well, but say nothing of one that is lost."""
        self._finished.set()
        self.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Leaves the program with the error's status, or for what was the reason of a broken connection."""
        if isinstance(error, SystemExit):  # after a message to the user; what it was about is the exit's context
            self._failing.set()
            status = error.code if isinstance(error.code, int) else STOPPED
            self._leave(status, reason=f"process {self._index} stopped: {_line(error.__context__ or error)}")
        if broken := _broken_connection(error):
            told, reason = f"another process was lost or cannot be reached ({broken})", ""
            with contextlib.suppress(RuntimeError):  # process 0 may be the lost one
                told = reason = self._heard(_GRACE) or told
            self._leave(STOPPED, told=told, reason=reason)
        self._failing.set()
        traceback.print_exception(error)
        self._leave(STOPPED, reason=f"process {self._index} stopped: {type(error).__name__}: {_line(error)}")

    def _leave(self, status: int, *, told: str = "", reason: str = "") -> NoReturn:
        """Tells the user, and the others the reason, and ends this process without waiting for any of them."""
        self._leaving.acquire()  # for good: one thread says why
        if told:
            print(f"\nerror: {told}\n{_AGAIN}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if reason:
            with contextlib.suppress(RuntimeError):  # another process was quicker
                self._client.key_value_set(_REASON, reason)
            if self._index == 0:
                time.sleep(_GRACE)  # the others hear through this process
        os._exit(status)

    def _give_sign(self, sign: str) -> None:
        words = f"{socket.gethostname()} {sign}"
        self._client.key_value_set(f"{_ALIVE}{self._index}", words, allow_overwrite=True)

    def _silent(self) -> str | None:
        """Returns which process has given no new sign for too long."""
        now = time.monotonic()
        for name, sign in self._client.key_value_dir_get(_ALIVE):
            index = int(name.rpartition("/")[2])
            if sign != self._seen[index][0] or sign.endswith(_FINISHED):
                self._seen[index] = (sign, now)
        for index, (sign, when) in self._seen.items():
            if now - when > self._lost_after:
                where = f" on {sign.split()[0]}" if sign else ""
                return f"process {index}{where} was lost: no sign of life for {self._lost_after} seconds"
        return None

    def _heard(self, seconds: float) -> str | None:
        """Returns what a process that stopped has said, None if there is none within this time."""
        try:
            return self._client.blocking_key_value_get(_REASON, int(1000 * seconds))
        except RuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise
