"""Several processes as one run: real ones on this machine, two with two devices each."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import pytest

from aujax import processes
from aujax.errors import UserError
from aujax.training import process_watch

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = (
    *("--config=configs/synthetic.py", "--config.image_size=32", "--config.data.resize_size=36", "--config.epochs=3"),
    # All faces in one step, so that what several steps make of rounding does not matter.
    *("--config.data.batch_size=24", "--config.data.eval_batch_size=8", "--config.optimizer.warmup_epochs=0"),
)
LOST_AFTER = 5


def begin(*arguments, devices=1, **variables):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **variables}
    command, output = [sys.executable, *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)


def start(data, workdir, *arguments, devices, **variables):
    options = (*OPTIONS, f"--config.data.dir={data}", f"--workdir={workdir}", *arguments)
    return begin("train.py", *options, devices=devices, **variables)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def start_two(data, workdir):
    """Two processes that train, with two devices each, as SLURM would start them."""
    job = {
        **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        "JAX_COORDINATOR_PORT": free_port(),
    }
    told = ("--distributed", f"--lost_after={LOST_AFTER}")
    return [
        start(data, workdir, *told, devices=2, SLURM_PROCID=index, SLURM_LOCALID=index, **job) for index in ("0", "1")
    ]


def run_two(lines):
    """What two processes say that join and then run these lines of Python, and their exit statuses."""
    program = f"""
import sys
from aujax import commandline, processes
from aujax.training import process_watch
index = int(sys.argv[1])
with process_watch.watched(), commandline.user_errors("train.py"):
    process_watch.join(coordinator="localhost:{free_port()}", count=2, index=index)
{textwrap.indent(textwrap.dedent(lines), "    ")}
"""
    both = [begin("-c", program, str(index)) for index in range(2)]
    said = [one.communicate(timeout=100)[0] for one in both]
    return said, [one.returncode for one in both]


def finish(started):
    said = started.communicate(timeout=300)[0]
    assert started.returncode == 0, said
    return said


def log(workdir):
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return {(line["kind"], line["epoch"]): line for line in lines}


class Runs(NamedTuple):
    """Two processes train; the second is killed after the first validation; one process with four devices goes on."""

    together: dict  # the log of all that
    alone: dict  # the log of one process with one device
    said: list[str]  # what each of the two said
    status: int  # with which the first one ended when the second was gone


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first, second = start_two(tiny_data, folder / "together")
    heard = []
    for line in first.stdout:
        heard.append(line)
        if line.startswith("epoch 1/3"):
            break
    second.kill()
    alone = start(tiny_data, folder / "alone", devices=1)
    said = ["".join(heard) + first.communicate(timeout=300)[0], second.communicate()[0]]
    assert "epoch 1/3" in said[0], said
    finish(start(tiny_data, folder / "together", devices=4))
    finish(alone)
    return Runs(log(folder / "together"), log(folder / "alone"), said, first.returncode)


def test_a_run_of_two_processes_goes_on_in_one_with_the_numbers_of_one(runs):
    assert list(runs.together) == list(runs.alone)
    assert list(runs.alone) == [(kind, epoch) for epoch in (1, 2, 3) for kind in ("train", "validation")]
    for epoch in (1, 2, 3):
        assert runs.together["train", epoch]["loss"] == pytest.approx(runs.alone["train", epoch]["loss"], rel=2e-3)


def test_only_the_first_process_speaks(runs):
    first, second = runs.said
    assert "4 x cpu" in first
    assert "epoch" not in second


def test_a_process_that_loses_another_one_says_so_and_ends(runs):
    told = runs.said[0].partition("error: ")[2].splitlines()
    lost = rf"process 1 on .+ was lost: no sign of life for {LOST_AFTER} seconds|another process was lost or .+ \(.+\)"
    assert told, runs.said
    assert re.fullmatch(lost, told[0])
    assert told[1:] == ["Start all processes again with the same command: they continue from the last checkpoint."]
    assert runs.status == process_watch.STOPPED


def test_processes_with_different_options_refuse_to_train_together():
    facts = '{"seed": 0, "config.au_weight": 4.0 * (1 - index), "fingerprint": "longer" * index}'
    said, statuses = run_two(f"""
        processes.check_agreement({{"seed": 0}})
        processes.check_agreement({facts})
    """)
    told = "error: process 1 has config.au_weight=0.0, process 0 has 4.0 (also different: fingerprint); start all"
    assert [told in one for one in said] == [True, True], said
    assert statuses == [2, 2]


def test_a_process_that_waits_for_one_that_failed_hears_why():
    said, statuses = run_two("""
        if index == 1:
            raise processes.UserError("face 7 cannot be decoded")
        processes.wait_for_all("a place that process 1 does not reach")
    """)
    assert "error: face 7 cannot be decoded\ntrain.py --help" in said[1]
    assert "error: process 1 stopped: face 7 cannot be decoded\nStart all" in said[0]
    assert statuses == [process_watch.STOPPED, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost:1", "count": 2}, "belong together, got localhost:1, 2, no id"),
        ({"count": 2, "index": 0}, "belong together, got no coordinator, 2, 0"),
        ({"coordinator": "localhost:1", "count": 2, "index": 2}, "--process-id: expected 0 to 1 of 2 processes, got 2"),
    ],
)
def test_half_of_what_processes_need_to_meet_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        process_watch.join(**options)


def test_processes_that_nobody_tells_of_are_asked_for():
    ended = subprocess.run(
        [sys.executable, "train.py", "--workdir=x", "--distributed"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert "give --coordinator, --num-processes and --process-id" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_process_that_finds_no_other_gives_up():
    lines = f"process_watch.join(coordinator='localhost:{free_port()}', count=2, index=1, patience=1)"
    ended = begin("-c", f"from aujax.training import process_watch\n{lines}")
    assert "error: the other processes were not found within 1 seconds; start all of them" in ended.communicate()[0]
    assert ended.returncode == process_watch.STOPPED


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ([{"a": 1, "b": [2]}, {"a": 1, "b": [2]}], None),
        ([{"loss": float("nan")}, {"loss": float("nan")}], None),
        ([{"a": 1}, {"a": "1"}], 'process 1 has a="1", process 0 has 1'),
        ([{"a": 1}, {}], "process 1 has no a, process 0 has 1"),
        ([{}, {"a": 1}], "process 1 has a=1, process 0 has none"),
        ([{"a": None}, {"a": 3}], "process 1 has a=3, process 0 has null"),
        ([{"b": 0}, {"b": 0}, {"b": 2}, {"b": 3}, {"b": 2}], "processes 2, 4 have b=2, process 0 has 0"),
        (
            [{"z": 1, "a": 1, "c": 1}, {"a": 2, "z": 2, "c": 2}],
            "process 1 has z=2, process 0 has 1 (also different: a, c)",
        ),
    ],
)
def test_the_first_difference_is_told_with_who_has_what(facts, told):
    assert processes.difference(facts) == told


def test_of_many_processes_some_are_named():
    told = processes.difference([{"a": 0}] + 63 * [{"a": 1}])
    assert told == "processes 1, 2, 3, 4, 5, 6 and 57 more have a=1, process 0 has 0"


class Signs(dict):
    """The store through which processes hear of each other, for one process."""

    def key_value_dir_get(self, folder):
        return list(self.items())

    def key_value_set(self, name, sign, allow_overwrite=False):
        self[name] = sign


@pytest.fixture
def watch(monkeypatch):
    """The watch of process 0 among two; `watch.at(seconds)` is what it finds then."""
    client, clock = Signs(), [0.0]
    monkeypatch.setattr(process_watch.time, "monotonic", lambda: clock[0])
    watch = process_watch.Watch(client, 0, 2, 30)

    def at(seconds, sign):
        clock[0] = seconds
        client["aujax/alive/0"], client["aujax/alive/1"] = f"here {seconds}", sign
        return watch._lost()

    watch.at = at
    return watch


def test_a_process_is_lost_that_gives_no_new_sign_for_long(watch):
    assert watch.at(20, "node7 1") is None
    assert watch.at(49, "node7 1") is None
    assert watch.at(51, "node7 1") == "process 1 on node7 was lost: no sign of life for 30 seconds"


def test_a_process_that_gives_signs_is_not_lost(watch):
    assert [watch.at(second, f"node7 {second}") for second in range(0, 100, 20)] == 5 * [None]


def test_a_process_that_has_finished_is_not_missed(watch):
    assert [watch.at(second, "node7 finished") for second in (10, 100)] == [None, None]


@pytest.mark.parametrize(
    ("message", "broken"),
    [
        (
            "UNKNOWN: Gloo all-reduce failed: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:6572",
            True,
        ),
        ("UNAVAILABLE: Socket closed", True),
        ("INTERNAL: NCCL operation ncclAllReduce failed: remote process exited", True),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 81920000000 bytes.", False),
        ("INVALID_ARGUMENT: Executable expected 2 arguments", False),
    ],
)
def test_a_broken_connection_is_told_from_other_errors_of_the_device(message, broken):
    error = RuntimeError("in the loop")
    error.__cause__ = jax.errors.JaxRuntimeError(message)
    assert process_watch.broken_connection(error) == (message if broken else None)


def test_a_process_that_ends_waits_for_the_others_only_while_they_are_well():
    said, statuses = run_two("index and 1 / 0")
    assert "ZeroDivisionError" in said[1]
    assert "error: process 1 stopped: ZeroDivisionError: division by zero\n" in said[0]
    assert statuses == [process_watch.STOPPED, process_watch.STOPPED]


def test_alone_an_error_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError), process_watch.watched():
        _ = 1 / 0
