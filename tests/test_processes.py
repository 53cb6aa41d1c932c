"""Several processes as one run: real ones on this machine, two with two devices each."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from aujax import processes
from aujax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = (
    *("--config=configs/synthetic.py", "--config.image_size=32", "--config.data.load_size=36", "--config.epochs=3"),
    # All faces in one step, so that what several steps make of rounding does not matter.
    *("--config.data.batch_size=24", "--config.data.eval_batch_size=8", "--config.optimizer.warmup_epochs=0"),
)


def start(data, workdir, *arguments, devices):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "train.py", *OPTIONS, f"--config.data.dir={data}", f"--workdir={workdir}", *arguments]
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)


def start_two(data, workdir):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [start(data, workdir, *together, f"--process_id={index}", devices=2) for index in range(2)]


def finish(started):
    said = started.communicate(timeout=300)[0]
    assert started.returncode == 0, said
    return said


def log(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def together(tiny_data, tmp_path_factory):
    """The folder of a run of two processes, killed after their first validation and started again, and what each said.

    They are started again on another number of devices: one process with four.
    """
    workdir = tmp_path_factory.mktemp("together") / "run"
    both = start_two(tiny_data, workdir)
    heard = []
    for line in both[0].stdout:
        heard.append(line)
        if line.startswith("epoch 1/3"):
            break
    for one in both:
        one.kill()
    said = "".join(heard) + both[0].communicate()[0], both[1].communicate()[0]
    assert "epoch 1/3" in said[0], said
    finish(start(tiny_data, workdir, devices=4))
    return workdir, said


def test_a_run_of_two_processes_goes_on_in_one_with_the_numbers_of_one(together, tiny_data, tmp_path):
    finish(start(tiny_data, tmp_path / "alone", devices=1))
    several, alone = (
        {(line["kind"], line["epoch"]): line for line in log(folder)} for folder in (together[0], tmp_path / "alone")
    )
    assert list(several) == list(alone) == [(kind, epoch) for epoch in (1, 2, 3) for kind in ("train", "validation")]
    for epoch in (1, 2, 3):
        assert several["train", epoch]["loss"] == pytest.approx(alone["train", epoch]["loss"], rel=2e-3)


def test_only_the_first_process_speaks(together):
    first, second = together[1]
    assert "4 x cpu" in first
    assert "epoch" not in second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost:1", "count": 2}, "belong together, got localhost:1, 2, no id"),
        ({"count": 2, "index": 0}, "belong together, got no coordinator, 2, 0"),
        ({"coordinator": "localhost:1", "count": 2, "index": 2}, "--process_id: expected 0 to 1 of 2 processes, got 2"),
    ],
)
def test_half_of_what_processes_need_to_meet_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        processes.join(**options)


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
    assert "give --coordinator, --num_processes and --process_id" in ended.stderr
    assert "Traceback" not in ended.stderr
