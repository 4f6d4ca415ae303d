"""What benchmarks/inference.py and benchmarks/same_bits.py compute and print."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import inference, same_bits, side_by_side

TASK = side_by_side.Task("lenet5_modern", 4, (28, 28, 1), {}, "cpu", "float32")


def test_ours_counts_the_errors_of_the_batch():
    ours = inference.Ours(TASK)
    images, labels = TASK.data()
    logits = TASK.model().apply(ours.variables, images, train=False)
    assert ours.run(2) == (np.argmax(logits, 1) != labels).sum()
    assert ours.parameters == 61_706


def test_a_round_has_a_rate_of_each_contestant(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    row = inference.measure(TASK, ["torch", "ours"], 2, 3)
    assert row["missing"].keys() == {"torch"}
    (rates,) = row["images/s"].values()
    assert len(rates) == 2 and min(rates) > 0


def test_turns_are_in_order_and_have_one_call_before_the_clock():
    called = []

    class Contestant:
        def __init__(self, name):
            self.name = name

        def run(self, calls):
            called.append((self.name, calls))
            return calls

    contestants = {name: Contestant(name) for name in "ab"}
    rates, last = side_by_side.in_turn(contestants, 8, 2, 3)
    assert called == [("a", 1), ("a", 3), ("b", 1), ("b", 3)] * 2
    assert last == {"a": 3, "b": 3}
    assert [len(x) for x in rates.values()] == [2, 2]


def test_table():
    names = ["torch", "compiled", "ours"]
    rates = {"torch": [5.0, 40.0, 20.0], "ours": [10.0, 20.0, 30.0]}
    row = {"network": "resnet18", "batch": 4, "images/s": rates}
    line = inference.table_row(row, names)
    # The ratios are 2, 1/2 and 3/2; a call takes 4/20 s.
    assert line == "| resnet18 | 4 | 20 |  | 20 | 1.50 |  | 200 |  | 200 |"
    head, rule = inference.table_head(names).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|")


def test_a_missing_contestant_is_said_once(monkeypatch, capsys):
    def measure(task, names, rounds, calls):
        return {"network": task.network, "missing": {"torch": "not installed"}}

    monkeypatch.setitem(sys.modules, "torch", None)  # takes seconds to import
    monkeypatch.setattr(sys, "argv", ["inference", "--networks=lenet5_modern"])
    monkeypatch.setattr(inference, "measure", measure)
    monkeypatch.setattr(inference, "table_row", lambda row, names: "row")
    inference.main()
    out = capsys.readouterr().out
    assert out.splitlines().count("row") == 2  # the batch, and one image
    assert out.splitlines()[-1] == "lenet5_modern without torch: not installed"
    assert out.count("without torch") == 1


def test_same_bits_names_the_arrays_that_differ():
    a = {"params": {"conv1": np.float32([1, 2]), "fc": np.float32([3])}, "step": 1}
    b = {**a, "params": {**a["params"], "conv1": np.float32([1, 2.0000002])}}
    assert same_bits.table_row("x", [a, a]) == "| x | 3 | yes |"
    assert same_bits.table_row("x", [a, b]) == "| x | 3 | not of params.conv1 |"
    zeros = [{"bias": np.float32([zero])} for zero in (0.0, -0.0)]
    assert same_bits.table_row("x", zeros) == "| x | 1 | not of bias |"


def test_same_bits_trains_twice_with_each_options(monkeypatch, capsys):
    calls = []

    def final_state(*arguments):
        calls.append(arguments)
        return {"step": np.int32(2)}

    monkeypatch.setattr(same_bits, "final_state", final_state)
    monkeypatch.setattr(sys, "argv", ["same_bits", "--steps=2"])
    same_bits.main()
    assert len({folder for folder, _, _ in calls}) == 4
    assert [options for *_, options in calls] == [
        *("", ""),
        *["--xla_gpu_deterministic_ops=true"] * 2,
    ]
    _, flags, _ = calls[0]
    assert flags[:2] == same_bits.RECIPE and "--config.num_steps=2" in flags
    assert "| XLA's default | 1 | yes |" in capsys.readouterr().out


def test_a_training_that_fails_ends_same_bits_with_its_output(monkeypatch):
    seen = {}

    def run(command, *, env, **_):
        seen.update(env)
        return subprocess.CompletedProcess(command, 3, "the loss is not finite")

    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setattr(same_bits.subprocess, "run", run)
    with pytest.raises(SystemExit, match="exited with 3: the loss is not finite"):
        same_bits.final_state("folder", [], "--b=2")
    assert seen["XLA_FLAGS"] == "--a=1 --b=2"
    assert seen["JAX_ENABLE_COMPILATION_CACHE"] == "false"
