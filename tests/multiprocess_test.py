"""Two processes of two devices over gloo give what one process of four gives."""

import re
import signal
import subprocess
import time

import pytest
import runs
import tiny_datasets
from PIL import Image

from experiment import outcomes, workdir

CONFIG = "--config=configs/lenet5.py:modern"
ENDLESS = {"num_epochs": 2000.0, "checkpoint__every_epochs": 0.0}


def start_processes(path, count, devices, config=CONFIG, **overrides):
    """Starts main.py in `count` processes of `devices`."""
    (port,) = runs.free_ports(1)
    children = []
    for number in range(count):
        arguments = runs.command(
            config, f"--workdir={path}", **({"num_devices": 0} | overrides)
        )
        if count > 1:
            arguments += [
                f"--coordinator=localhost:{port}",
                f"--num_processes={count}",
                f"--process_id={number}",
            ]
        children.append(
            subprocess.Popen(
                arguments,
                cwd=runs.ROOT,
                env=runs.environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return children


def run_processes(path, count, devices, **overrides):
    """Runs main.py in `count` processes of `devices`; returns what each printed."""
    children = start_processes(path, count, devices, **overrides)
    outputs = [child.communicate(timeout=200)[0] for child in children]
    assert [c.returncode for c in children] == [0] * count, "\n".join(outputs)
    return outputs


def until(child, start):
    """What a process prints up to a line that begins with `start`."""
    output = ""
    for line in child.stdout:
        output += line
        if line.startswith(start):
            return output
    raise AssertionError(f"{start!r} never came:\n{output}")


def ends(children, within):
    """What each process printed; all end `within` seconds."""
    try:
        return [child.communicate(timeout=within)[0] for child in children]
    finally:
        for child in children:
            child.kill()


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_with_its_line(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    children = start_processes(tmp_path, 2, 1)
    outputs = ends(children, 60)
    assert [child.returncode for child in children] == [1, 1], outputs
    for output, start in zip(outputs, ("error: ", "error: process 0: "), strict=True):
        (line,) = [x for x in output.splitlines() if x.startswith("error:")]
        assert line.startswith(f"{start}--workdir={tmp_path} holds no run but other")
        assert "Traceback" not in output


@pytest.mark.slow
def test_processes_whose_copies_of_the_data_differ_end_with_one_line(
    tmp_path, monkeypatch
):
    for home, count in (("a", 12), ("b", 13)):
        for number in range(count):
            path = tmp_path / home / "photos" / "xy"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (28, 28)).save(path)
    homes, environment = iter("ab"), runs.environment
    monkeypatch.setattr(
        runs,
        "environment",
        lambda n: environment(n) | {"HOME": f"{tmp_path / next(homes)}"},
    )
    splits = {"dataset__train_split": "train", "dataset__eval_split": "auto"}
    data = {"dataset__name": "folder:~/photos", "dataset__image_size": 28} | splits
    children = start_processes(tmp_path / "run", 2, 1, batch_size=4, **data)
    outputs = ends(children, 60)
    assert [child.returncode for child in children] == [1, 1], outputs
    for output in outputs:
        (line,) = [x for x in output.splitlines() if x.startswith("error:")]
        assert "folder:~/photos, train: the processes, which must read the" in line
        assert "from process 0 on they have 10, 11. Give each host the same" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_ends_the_other_with_one_line(tmp_path, victim, number):
    children = start_processes(tmp_path / "run", 2, 1, **ENDLESS)
    try:
        until(children[0], "step")
        children[victim].send_signal(number)
        output = children[1 - victim].communicate(timeout=45)[0]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert children[1 - victim].returncode == 1
    (line,) = [x for x in output.splitlines() if x.startswith("error:")]
    assert "another process of this run died or cannot be reached" in line
    assert "Traceback" not in output and "terminate" not in output


@pytest.mark.parametrize(
    ("placement", "balance"),
    [
        ("device", 0.0),
        pytest.param("host", 0.0, marks=pytest.mark.slow),
        pytest.param("host", 1.0, marks=pytest.mark.slow),
    ],
)
def test_two_processes_of_two_devices_equal_one_of_four(tmp_path, placement, balance):
    changes = {"dataset__balance": balance, "num_epochs": 1.0}
    runs.train_small(tmp_path / "one", num_devices=4, **changes)
    changes["dataset__placement"] = placement
    outputs = run_processes(tmp_path / "two", 2, 2, **changes)
    assert sum("203/203 images counted" in output for output in outputs) == 1
    one, two = (runs.final_state(tmp_path / n)[0] for n in ("one", "two"))
    runs.assert_close(one, two)


@pytest.mark.slow
def test_two_processes_train_a_detector_as_one_does(tmp_path):
    """For two steps: rounding may then move a sample, and the runs part."""
    root = tmp_path / "voc"
    tiny_datasets.prepare_voc(root, {"train": "abcdefgh", "test": "ijk"})
    tiny_datasets.write_voc(root, "j", (48, 64))
    changes = {
        "config": "--config=configs/faster_rcnn.py:bccd",
        "small": runs.DETECTOR | {"num_devices": 0},
        "dataset__name": f"voc:{root}",
        "dataset__train_split": "train",
        "dataset__eval_split": "test",
        "num_epochs": 1.0,
    }
    for name, count in (("one", 1), ("two", 2)):
        outputs = run_processes(tmp_path / name, count, 4 // count, **changes)
        assert sum("3/3 images counted" in x.splitlines()[-1] for x in outputs) == 1
    one, two = (runs.final_state(tmp_path / n)[0] for n in ("one", "two"))
    runs.assert_close(one, two)
    results = (workdir.Workdir(tmp_path / name) for name in ("one", "two"))
    one, two = map(outcomes.read, results)
    assert one == pytest.approx(two, abs=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(tmp_path):
    # Smooth: where rounding moves a maximum or a ReLU's zero, runs part.
    smooth = {"activation": "tanh", "pool": "avg"}
    constant = {
        "schedule__name": "constant",
        "model__name": "lenet5_modern",
        "model__fields": smooth,
    }
    run_processes(tmp_path / "parts", 1, 1, num_steps=13, **constant)
    outputs = run_processes(tmp_path / "parts", 2, 2, **constant)
    assert any("resuming from step 13 of 30" in output for output in outputs)
    run_processes(tmp_path / "whole", 1, 1, **constant)
    parts, whole = (runs.final_state(tmp_path / n)[0] for n in ("parts", "whole"))
    runs.assert_close(parts, whole)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
    children = start_processes(tmp_path / "run", 2, 1, **ENDLESS)
    try:
        until(children[0], "step")
        children[1].send_signal(signal.SIGUSR1)  # as SIGTERM
        output = until(children[0], "stopped")
        limit = time.monotonic() + 60
        while None in [child.poll() for child in children]:
            assert time.monotonic() < limit
            for child in children:  # what comes now changes nothing
                child.send_signal(signal.SIGTERM)
            time.sleep(0.01)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert [child.returncode for child in children] == [75, 75]
    step = int(re.search(r"stopped at step (\d+) of", output)[1])
    assert runs.final_state(tmp_path / "run")[1] == step
