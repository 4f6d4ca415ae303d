"""benchmarks/gpu.sh goes on where it was stopped, and runs whole in miniature."""

import os
import re
import subprocess
import sys

import pytest
import runs

SCRIPT = runs.ROOT / "benchmarks" / "gpu.sh"
NETWORKS = ("resnet50", "vgg16", "googlenet_bn", "densenet121", "resnext50_32x4d")
STEPS, COMPILED = (
    [f"{kind}_{name}" for name in NETWORKS] for kind in ("step", "compiled")
)
STAGES = [*STEPS, "same_bits", "inference", *COMPILED, "training"]
# Stands for Python. It says JAX's backend and logs all other calls. Those that match
# $FAILING=PATTERN:CODE fail; those of $SLOW stop the script and then last ten minutes.
STUB = """#!/bin/sh
if [ "$1" = -c ]; then echo "$BACKEND"; exit; fi
echo "$@" >>"$LOG"
echo "$JAX_COMPILATION_CACHE_DIR" >"$LOG.cache"
echo "of this machine"
echo "| network | images/s |"
echo "| $2 | 7 |"
case "$*" in ${FAILING%:*}) echo "no luck"; exit ${FAILING#*:} ;; esac
case "$*" in $SLOW)
  kill "$(cut -d ' ' -f 4 "/proc/$PPID/stat")"  # the script, the parent of timeout
  exec sleep 600 ;;
esac
"""


@pytest.fixture
def stub(tmp_path):
    """The environment of a script whose Python is a stub."""
    program = tmp_path / "python"
    program.write_text(STUB)
    program.chmod(0o755)
    return {
        **runs.environment(),
        "PYTHON": str(program),
        "LOG": str(tmp_path / "log"),
        "RESULTS_DIR": str(tmp_path / "out"),
        "BACKEND": "gpu",
        "FAILING": "none:0",
        "SLOW": "none",
    }


def call(environment, **changes):
    return subprocess.run(
        [SCRIPT],
        env=environment | changes,
        capture_output=True,
        text=True,
        timeout=300,
    )


def logged(environment):
    """What the stub was called with since the last time."""
    with open(environment["LOG"], "a+") as file:
        file.seek(0)
        lines = file.read().splitlines()
        file.truncate(0)
    return lines


def complete(environment):
    return {name.removesuffix(".txt") for name in files(environment, ".txt")}


def files(environment, ending):
    names = os.listdir(environment["RESULTS_DIR"])
    return {name for name in names if name.endswith(ending)}


def test_a_second_call_runs_only_what_is_not_complete(stub):
    first = call(stub, FAILING="*step_vgg16*:9")
    assert first.returncode == 1
    words = [line.split()[:2] for line in logged(stub)]
    steps = ["train_step"] * 5
    modules = [*steps, "same_bits", "inference", *steps]
    assert words[:-1] == [["-m", f"benchmarks.{name}"] for name in modules]
    assert words[-1][0] == "main.py"
    assert complete(stub) == set(STAGES) - {"step_vgg16"}
    assert re.search(
        r"step_vgg16: failed with 9, see .*vgg16.tmp: no luck", first.stdout
    )

    second = call(stub)
    assert second.returncode == 0, second.stderr
    (line,) = logged(stub)
    assert "--networks=vgg16 --device=gpu" in line
    assert "--contestants=torch,ours" in line
    assert complete(stub) == set(STAGES)
    assert not files(stub, ".tmp")
    table = second.stdout.partition("## steps")[2].partition("##")[0]
    assert table.strip().splitlines() == [
        "of this machine",
        "",
        "| network | images/s |",
        "| benchmarks.train_step | 7 |",
    ]


def test_compiled_programs_lie_in_an_absolute_results_dir(stub):
    del stub["JAX_COMPILATION_CACHE_DIR"]
    assert call(stub).returncode == 0
    with open(f"{stub['LOG']}.cache") as file:
        assert file.read() == f"{stub['RESULTS_DIR']}/cache\n"


def test_a_stage_that_the_system_kills_has_failed(stub):
    """Without memory it once was "stopped after 350 s" in each call."""
    found = call(stub, FAILING="*step_vgg16*:137")
    assert found.returncode == 1
    (line,) = [x for x in found.stdout.splitlines() if x.startswith("step_vgg16: the")]
    assert line.startswith("step_vgg16: the system killed it, as for want of memory")


def test_a_training_that_the_budget_stops_is_left_for_the_next_call(stub):
    found = call(stub, FAILING="main.py*:75")
    assert found.returncode == 75
    assert complete(stub) == set(STAGES) - {"training"}
    assert "training: stopped after" in found.stdout
    logged(stub)
    assert call(stub).returncode == 0
    (line,) = logged(stub)
    place = f"{stub['RESULTS_DIR']}/cifar10"
    assert line.startswith(f"main.py --workdir={place} --config=")


def test_stages_that_do_not_fit_are_said_and_left(stub):
    found = call(stub, BUDGET="80")
    assert found.returncode == 75
    lines = found.stdout.partition("## not complete")[2].split("\n")
    left = [line.partition(":")[0] for line in lines if line]
    assert left == [*STEPS, "same_bits", *COMPILED]
    assert complete(stub) == {"inference", "training"}


def test_nothing_is_measured_where_jax_finds_no_gpu(stub):
    found = call(stub, BACKEND="cpu")
    assert found.returncode == 1
    assert found.stderr == "DEVICE=gpu: JAX runs on cpu\n"
    assert not logged(stub) and not os.listdir(stub["RESULTS_DIR"])
    assert call(stub, BACKEND="cpu", DEVICE="cpu").returncode == 0


def test_nothing_is_measured_without_what_main_needs(stub, tmp_path):
    """It was once taken for a missing PyTorch, whose column stayed empty for good."""
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('no simplejpeg')")
    path = f"{tmp_path}{os.pathsep}{stub['PYTHONPATH']}"
    found = call(stub, PYTHON=sys.executable, PYTHONPATH=path, DEVICE="cpu")
    assert found.returncode == 1
    assert found.stderr == "no simplejpeg: pip install -r requirements.txt\n"
    assert not os.listdir(stub["RESULTS_DIR"])


def test_a_signal_stops_the_stage_and_ends_the_script(stub):
    found = call(stub, SLOW="*vgg16*")
    assert found.returncode == 75
    assert "## steps" in found.stdout  # what was complete is shown
    lines = found.stdout.partition("## not complete")[2].split("\n")
    left = [line.partition(":")[0] for line in lines if line]
    assert left == [name for name in STAGES if name != "step_resnet50"]
    assert len(logged(stub)) == 2
    assert complete(stub) == {"step_resnet50"}


@pytest.mark.slow
def test_a_miniature_on_the_cpu(tmp_path):
    # Where PyTorch is installed, it is not found: its compilation takes a minute.
    (tmp_path / "torch.py").write_text("raise ImportError('not in this test')")
    environment = runs.environment()
    environment |= {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}",
        "PYTHON": sys.executable,
        "RESULTS_DIR": str(tmp_path / "out"),
        "DEVICE": "cpu",
        "MINIATURE": "1",
    }
    found = call(environment)
    assert found.returncode == 0, found.stdout + found.stderr
    text = found.stdout
    assert re.search(r"^\| lenet5_modern \| 2 \|  \|  \| [\d.,]+ \|", text, re.M)
    assert re.search(r"^\| lenet5_modern \| 1 \|  \|  \| [\d.,]+ \|", text, re.M)
    assert "lenet5_modern without torch: not in this test" in text
    for options in ("XLA's default", "deterministic operations"):
        assert re.search(rf"^\| {options} \| \d+ \| yes \|$", text, re.M)
    assert re.search(r"^done: test.* error .*, 20/20 images counted", text, re.M)
    again = call(environment)
    assert again.returncode == 0
    assert "at most" not in again.stdout
    assert again.stdout == text[text.index("\n## steps") :]
