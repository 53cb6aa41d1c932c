"""Several processes as one run: real ones on this machine, two with two devices each."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
import yaml

from aujax import cli, processes
from aujax.errors import UserError
from aujax.results import schema

pytestmark = pytest.mark.jax_versions

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = (
    *("--config=configs/synthetic.py", "--config.image_size=32", "--config.data.resize_size=36", "--config.epochs=2"),
    # All faces in one step, so that rounding does not accumulate over steps.
    *("--config.data.batch_size=24", "--config.data.eval_batch_size=8", "--config.optimizer.warmup_epochs=0"),
)
LOST_AFTER = 5


def begin(*arguments, devices=1, **variables):
    # Of equal flags the last one counts.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, **variables}
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
    options = ("--distributed", f"--lost_after={LOST_AFTER}")
    return [
        start(data, workdir, *options, devices=2, SLURM_PROCID=index, SLURM_LOCALID=index, **job)
        for index in ("0", "1")
    ]


# Lines of Python that each of two processes runs once they have joined, by name.
FAILURES = {
    "different options": """
        processes.check_agreement({"seed": 0})
        facts = {"seed": 0, "config.au_weight": 4.0 * (1 - index), "fingerprint": "longer" * index}
        processes.check_agreement(facts)
    """,
    "a face": """
        if index == 1:
            raise processes.UserError("face 7 cannot be decoded")
        processes.wait_for_all("a place that process 1 does not reach")
    """,
    "a bug": "index and 1 / 0",
}


@pytest.fixture(scope="module")
def failed():
    """Output and exit statuses of the two processes of each of `FAILURES`, which run at the same time."""
    started = {}
    for name, lines in FAILURES.items():
        program = f"""
import sys
from aujax import cli, processes
index = int(sys.argv[1])
with processes.watched(), cli.user_errors("train.py"):
    processes.join(coordinator="localhost:{free_port()}", count=2, index=index)
{textwrap.indent(textwrap.dedent(lines), "    ")}
"""
        started[name] = [begin("-c", program, str(index)) for index in range(2)]
    outputs = {name: [process.communicate(timeout=100)[0] for process in both] for name, both in started.items()}
    return {name: (outputs[name], [process.returncode for process in both]) for name, both in started.items()}


FAITHFULNESS = ("--faithfulness", "--faithfulness-faces=3")


@pytest.fixture(scope="module")
def evaluated_by_two(tiny_run, tmp_path_factory):
    """The folder of `tiny_run`, evaluated again by two processes, and the output of each."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, workdir, ignore=shutil.ignore_patterns("eval"))
    address = (f"--coordinator=localhost:{free_port()}", "--num-processes=2")
    options = (f"--workdir={workdir}", "--split=validation,test", *FAITHFULNESS, *address)
    both = [begin("eval.py", *options, f"--process-id={index}") for index in range(2)]
    return workdir, [finish(process) for process in both]


def finish(started):
    output = started.communicate(timeout=300)[0]
    assert started.returncode == 0, output
    return output


def log(workdir):
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return {(line["kind"], line["epoch"]): line for line in lines}


class Runs(NamedTuple):
    """Two processes train; the second is killed after the first validation; one process with four devices continues."""

    together: dict  # the log of all that
    alone: dict  # the log of one process with one device
    outputs: list[str]  # of each of the two
    status: int  # with which the first one ended when the second was gone


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first, second = start_two(tiny_data, folder / "together")
    lines = []
    for line in first.stdout:
        lines.append(line)
        if line.startswith("epoch 1/2"):
            break
    second.kill()
    alone = start(tiny_data, folder / "alone", devices=1)
    outputs = ["".join(lines) + first.communicate(timeout=300)[0], second.communicate()[0]]
    assert "epoch 1/2" in outputs[0], outputs
    finish(start(tiny_data, folder / "together", devices=4))
    finish(alone)
    return Runs(log(folder / "together"), log(folder / "alone"), outputs, first.returncode)


def test_a_run_of_two_processes_continued_in_one_has_the_numbers_of_one(runs):
    assert list(runs.together) == list(runs.alone)
    assert list(runs.alone) == [(kind, epoch) for epoch in (1, 2) for kind in ("train", "validation")]
    for epoch in (1, 2):
        assert runs.together["train", epoch]["loss"] == pytest.approx(runs.alone["train", epoch]["loss"], rel=2e-3)


def test_only_process_0_prints(runs):
    first, second = runs.outputs
    assert "4 x cpu" in first
    assert "epoch" not in second


def test_a_process_that_loses_another_one_reports_it_and_ends(runs):
    message = runs.outputs[0].partition("error: ")[2].splitlines()
    lost = rf"process 1 on .+ was lost: no sign of life for {LOST_AFTER} seconds|another process was lost or .+ \(.+\)"
    assert message, runs.outputs
    assert re.fullmatch(lost, message[0])
    assert message[1:] == ["Start all processes again with the same command: they continue from the last checkpoint."]
    assert runs.status == processes.STOPPED


def test_of_an_evaluation_only_process_0_prints(evaluated_by_two):
    _, (first, second) = evaluated_by_two
    assert first.count("ATT-COS") == 4  # two tables a split
    assert first.count("faithfulness: 3 of 3 faces") == 2
    assert "ATT-COS" not in second
    assert "faithfulness" not in second


def test_an_evaluation_by_two_processes_is_that_of_one(tiny_run, evaluated_by_two):
    alone, together = (schema.open_run(folder, "test") for folder in (tiny_run, evaluated_by_two[0]))
    assert not list(together.directory.glob("*.partial"))
    pd.testing.assert_frame_equal(together.faces, alone.faces, atol=1e-4)
    scores = together.tables.scores(together.faces)
    for key, values in alone.tables.scores(alone.faces).items():
        tolerance = 5e-3 if key.metric == "iou" else 2e-4  # rounding decides which of equal values count
        np.testing.assert_allclose(scores[key], values, atol=tolerance, err_msg=str(key))
    with np.load(alone.directory / "maps.npz") as expected, np.load(together.directory / "maps.npz") as found:
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=2e-3, err_msg=name)


def test_faithfulness_measured_by_two_processes_is_that_of_one(tiny_run, evaluated_by_two, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    cli.main(["eval", f"--workdir={tmp_path / 'run'}", "--split=validation", *FAITHFULNESS])
    files = [folder / "eval/validation" for folder in (tmp_path / "run", evaluated_by_two[0])]
    alone, together = (json.loads((folder / schema.FAITHFULNESS).read_text()) for folder in files)
    # With the temperature of this evaluation, which process 0 alone has fitted.
    assert alone["temperature"] != 1
    assert together.pop("temperature") == pytest.approx(alone.pop("temperature"), rel=1e-3)
    assert together == alone
    scores = [pd.read_parquet(folder / schema.FAITHFULNESS_SCORES) for folder in files]
    pd.testing.assert_frame_equal(*scores, atol=1e-3)


def test_processes_with_different_options_refuse_to_train_together(failed):
    outputs, statuses = failed["different options"]
    message = "error: process 1 has config.au_weight=0.0, process 0 has 4.0 (also different: fingerprint); start all"
    assert [message in output for output in outputs] == [True, True], outputs
    assert statuses == [2, 2]


def test_a_process_that_waits_for_a_failed_one_reports_the_reason(failed):
    outputs, statuses = failed["a face"]
    assert "error: face 7 cannot be decoded\ntrain.py --help" in outputs[1]
    assert "error: process 1 stopped: face 7 cannot be decoded\nStart all" in outputs[0]
    assert statuses == [processes.STOPPED, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost:1", "count": 2}, "belong together, got localhost:1, 2, no id"),
        ({"count": 2, "index": 0}, "belong together, got no coordinator, 2, 0"),
        ({"coordinator": "localhost:1", "count": 2, "index": 2}, "--process-id: expected 0 to 1 of 2 processes, got 2"),
    ],
)
def test_an_incomplete_address_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        processes.join(**options)


def test_without_a_cluster_the_addresses_of_the_processes_are_requested():
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


def test_a_process_that_cannot_reach_the_others_gives_up():
    address = (f"--coordinator=localhost:{free_port()}", "--num-processes=2", "--process-id=1")
    ended = begin("train.py", "--workdir=x", *address, "--join-timeout=1")
    assert "error: the other processes were not found within 1 seconds; start all of them" in ended.communicate()[0]
    assert ended.returncode == processes.STOPPED


GUIDE = (ROOT / "docs" / "guides" / "clusters.md").read_text()
(BATCH_SCRIPT,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", GUIDE, re.DOTALL)
SERVICE, JOB = yaml.safe_load_all(*re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL))
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]

# Stands in for SLURM's: two tasks on this machine, and no other option than the documented one.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 64
shift
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@"; status=$?
wait $first && exit $status
"""
# The command, with a line of text in place of the training.
AUJAX = f"""#!{sys.executable}
import os, sys, types
sys.path.insert(0, {str(ROOT)!r})
import jax
from aujax import cli
def train_and_evaluate(config, workdir):
    line = f"process {{jax.process_index()}} of {{jax.process_count()}}: {{config.data.dir}}, {{workdir}}\\n"
    os.write(1, line.encode())  # whole, whatever the other process writes
sys.modules["aujax.training.loop"] = types.SimpleNamespace(train_and_evaluate=train_and_evaluate)
cli.main()
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Output and exit status of the guide's batch script, and of the two pods of its job; they run at the same time."""
    home = tmp_path_factory.mktemp("home")
    programs = home / "aujax/.venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text("")
    for name, text in (("srun", SRUN), ("aujax", AUJAX)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    (address,) = re.findall(r"--coordinator=(\S+)", CONTAINER["args"][0])
    pod = CONTAINER["args"][0].replace(address, f"localhost:{free_port()}")
    commands = {
        "SLURM": (["bash", "-c", BATCH_SCRIPT], job | {"JAX_COORDINATOR_PORT": free_port()}),
        "pod 0": ([*CONTAINER["command"], pod], {"JOB_COMPLETION_INDEX": "0"}),
        "pod 1": ([*CONTAINER["command"], pod], {"JOB_COMPLETION_INDEX": "1"}),
    }
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = {
        name: subprocess.Popen(command, cwd=home, env=environment | variables, **output)
        for name, (command, variables) in commands.items()
    }
    return {name: (process.communicate(timeout=100)[0], process.returncode) for name, process in started.items()}


def test_the_batch_script_of_the_guide_starts_processes_that_join(recipes):
    output, status = recipes["SLURM"]
    for index in range(2):
        assert f"process {index} of 2: data/affectnet, runs/affectnet\n" in output
    assert status == 0


@pytest.mark.parametrize("index", [0, 1])
def test_the_pods_of_the_guide_join(recipes, index):
    output, status = recipes[f"pod {index}"]
    assert f"process {index} of 2: /disk/affectnet, /disk/runs/affectnet\n" in output
    assert status == 0


def test_the_job_of_the_guide_gives_its_pods_the_address_and_number_of_the_command():
    command, spec = CONTAINER["args"][0], JOB["spec"]
    # The first pod of an Indexed Job is named NAME-0; the service with its subdomain's name makes that a DNS name.
    assert f"--coordinator={JOB['metadata']['name']}-0.{POD['subdomain']}:" in command
    assert SERVICE["metadata"]["name"] == POD["subdomain"]
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert spec["completions"] == spec["parallelism"] == int(re.findall(r"--num-processes=(\d+)", command)[0])
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}


def test_the_batch_of_the_guide_is_divided_over_the_gpus_of_its_script():
    number = {name: int(value) for name, value in re.findall(r"--([a-z_.-]+)=(\d+)", BATCH_SCRIPT)}
    assert number["ntasks-per-node"] == number["gpus-per-node"]
    assert number["config.data.batch_size"] % (number["nodes"] * number["gpus-per-node"]) == 0


@pytest.mark.parametrize(
    ("facts", "message"),
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
def test_the_first_difference_is_reported_with_each_process_and_value(facts, message):
    assert processes.difference(facts) == message


def test_of_many_processes_the_first_are_named():
    message = processes.difference([{"a": 0}] + 63 * [{"a": 1}])
    assert message == "processes 1, 2, 3, 4, 5, 6 and 57 more have a=1, process 0 has 0"


class Signs(dict):
    """A key-value store like that of JAX's coordination service, for one process."""

    def key_value_dir_get(self, folder):
        return list(self.items())

    def key_value_set(self, name, sign, allow_overwrite=False):
        self[name] = sign


@pytest.fixture
def watch(monkeypatch):
    """The watch of process 0 among two; `watch.at(seconds)` is what it finds then."""
    client, clock = Signs(), [0.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    watch = processes.Watch(client, 0, 2, 30)

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
def test_a_broken_connection_is_distinguished_from_other_errors_of_the_device(message, broken):
    error = RuntimeError("in the loop")
    error.__cause__ = jax.errors.JaxRuntimeError(message)
    assert processes.broken_connection(error) == (message if broken else None)


def test_a_process_that_ends_waits_for_the_others_only_while_they_are_well(failed):
    outputs, statuses = failed["a bug"]
    assert "ZeroDivisionError" in outputs[1]
    assert "error: process 1 stopped: ZeroDivisionError: division by zero\n" in outputs[0]
    assert statuses == [processes.STOPPED, processes.STOPPED]


def test_alone_an_error_is_left_as_it_is():
    with pytest.raises(ZeroDivisionError), processes.watched():
        _ = 1 / 0
