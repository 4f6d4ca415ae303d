"""Runs of a sweep as a SLURM job array; programs of the tests stand for SLURM's.

tests/slurm has a real SLURM.
"""

import os
import sys

import pytest

from errors import UsageError, UserError
from experiment import ownership
from sweep import slurm

NAMES = [f"seed={n}" for n in range(3)]


def test_options_are_parsed():
    text = "partition=main, minutes=30,gpus=0,sbatch.exclude=a,b[1-2],cpus=4"
    assert slurm.parse(text) == {
        "partition": "main",
        "minutes": 30,
        "gpus": 0,
        "cpus": 4,
        "sbatch": {"exclude": "a,b[1-2]"},
    }
    assert slurm.parse("") == {"sbatch": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cores=4", "--slurm=cores=4: 'cores' is none of partition, account, qos"),
        ("minute=4", "sbatch.OPTION, any other option of sbatch; did you mean 'minut"),
        ("cores", "--slurm=cores: 'cores' is none of"),
        ("cpus=four", "--slurm=cpus=four: cpus must be a whole number of at least 1"),
        ("cpus=4,array", "--slurm=cpus=4,array: cpus must be"),
        ("minutes=0", "at least 1"),
        ("gpus=-1", "at least 0"),
        ("partition=", "--slurm=partition=: partition needs a value"),
        ("sbatch.mem", "--slurm=sbatch.mem: memory=VALUE says it"),
        ("sbatch.cpus-per-task=3", "cpus=VALUE says it"),
        ("sbatch.time=1", "minutes=VALUE says it"),
        ("sbatch.output=x", "a sweep chooses --output itself"),
        ("cpus=1,cpus=2", "--slurm=cpus=2: cpus is given twice"),
    ],
)
def test_wrong_options_are_named(text, words):
    with pytest.raises(UsageError) as error:
        slurm.parse(text)
    assert words in str(error.value)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Returns a function that makes a shell script the program `name`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def command(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return command


@pytest.fixture
def cluster(commands):
    """A SLURM that accepts each job as number 12, and has it for ever."""
    pytest.importorskip("submitit", reason="requirements-slurm.txt")
    commands("srun", "exit 1")
    commands("sbatch", "echo Submitted batch job 12")
    commands("squeue", "echo 12_0; echo 12_2; echo 7")
    return commands


def test_one_array_trains_all_runs_and_is_submitted_once(cluster, tmp_path):
    parent = tmp_path / "a sweep"
    assert slurm.queued(parent) == set()
    options = slurm.parse("partition=short,minutes=6,cpus=2,array=2,sbatch.nice=9")
    done = slurm.submit(parent, NAMES, options)
    assert done.jobs == {f"12_{n}": name for n, name in enumerate(NAMES)}
    assert "submitted 3 runs as job 12, at most 2 at once" in str(done)
    assert slurm.queued(parent) == {"seed=0", "seed=2"}

    lines = (parent / "slurm" / "12_submission.sh").read_text().splitlines()
    for option in (
        "--array=0-2%2 --partition=short --time=6 --cpus-per-task=2 --nodes=1 "
        "--ntasks-per-node=1 --nice=9 --requeue --signal=USR2@90"
    ).split():
        assert f"#SBATCH {option}" in lines
    assert f"#SBATCH --chdir={slurm.slurm_task.ROOT}" in lines
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert f"--cpus-per-task=2 {sys.executable} -u -m submitit" in command

    nothing = slurm.submit(parent, ["seed=0"], options)
    assert str(nothing) == "SLURM has seed=0 already\nnothing was submitted"
    cluster("sbatch", "echo Submitted batch job 15")
    again = slurm.submit(parent, NAMES, options)
    assert again.jobs == {"15": "seed=1"}
    assert str(again).startswith("SLURM has seed=0, seed=2 already\nsubmitted 1 run as")


@pytest.mark.parametrize(
    ("text", "processes"),
    [("nodes=2", 1), ("nodes=2,gpus=4", 4), ("gpus=4", 1), ("nodes=2,tasks=3", 3)],
)
def test_several_nodes_have_a_process_for_each_gpu(text, processes):
    found = slurm._parameters(slurm.parse(text), "a")
    assert found["ntasks_per_node"] == processes


def test_the_outer_job_is_hidden_from_the_tasks(cluster, tmp_path, monkeypatch):
    cluster("sbatch", f"env > {tmp_path}/seen; echo Submitted batch job 12")
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/here.conf")
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    slurm.submit(tmp_path / "sweep", NAMES, slurm.parse(""))
    seen = (tmp_path / "seen").read_text().splitlines()
    assert {"SLURM_CONF=/etc/here.conf", "TFDS_DATA_DIR=/data"} <= set(seen)
    assert not [line for line in seen if line.startswith("SLURM_JOB_ID")]
    assert os.environ["SLURM_JOB_ID"] == "3"


def test_what_slurm_refuses_is_one_line(cluster, tmp_path):
    cluster("sbatch", "echo sbatch: error: invalid partition >&2; exit 1")
    with pytest.raises(UserError) as error:
        slurm.submit(tmp_path / "sweep", NAMES, slurm.parse(""))
    words = "SLURM refuses the job: sbatch: error: invalid partition"
    assert str(error.value) == words
    assert slurm.queued(tmp_path / "sweep") == set()
    cluster("sbatch", "echo Invalid job array specification >&2; exit 1")
    with pytest.raises(UserError, match="specification; scontrol .* MaxArraySize"):
        slurm.submit(tmp_path / "sweep", NAMES, slurm.parse(""))
    with pytest.raises(UserError, match="100%: .* must not contain %"):
        slurm.submit(tmp_path / "100%", NAMES, slurm.parse(""))


def test_a_slurm_that_does_not_answer_is_no_empty_queue(cluster, tmp_path):
    slurm.submit(tmp_path, NAMES, slurm.parse(""))
    cluster("squeue", "echo slurm_load_jobs error: Invalid job id specified >&2; false")
    assert slurm.queued(tmp_path) == set()  # it has forgotten the job
    cluster("squeue", "echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(UserError, match="which runs it has .Unable to contact"):
        slurm.queued(tmp_path)
    with pytest.raises(UserError, match="which runs it has"):
        slurm.submit(tmp_path, NAMES, slurm.parse(""))


@pytest.mark.usefixtures("cluster")
def test_one_process_at_a_time_submits(tmp_path):
    with ownership.Lock(tmp_path / "slurm") as lock:
        lock.take()
        with pytest.raises(ownership.Owned):
            slurm.submit(tmp_path, NAMES, slurm.parse(""))


def test_a_missing_slurm_or_submitit_is_named(commands, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="requirements-slurm.txt")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="there is no sbatch here"):
        slurm.submit(tmp_path, NAMES, slurm.parse(""))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install -r requirements-slurm.txt"):
        slurm.submit(tmp_path, NAMES, slurm.parse(""))
