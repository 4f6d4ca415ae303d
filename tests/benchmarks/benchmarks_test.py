"""The results and output of the benchmarks, but not their speed."""

import dataclasses
import itertools
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax import lax

import benchmarks
import data_source
from benchmarks import (
    convolutions,
    detection_step,
    first_answer,
    lenet_pass,
    photographs,
    profile_step,
    side_by_side,
    start_up,
    train_families,
    train_step,
)
from configs import default
from kernels import native, ops
from models import layers

TASK = side_by_side.Task("lenet5_modern", 4, (28, 28, 1), {}, "cpu", "float32")
ROW = {
    "network": "resnet18",
    "batch": 4,
    "images/s": {"ours": [10.0, 20.0, 30.0], "torch": [5.0, 40.0, 20.0]},
    "losses": {"ours": 1.0, "torch": 1.0},
    "missing": {"compiled": "not installed"},
    "flop/step": 8e9,
    "bytes/step": 2e9,
    "differs": [],
}


def test_ours_and_plain_train_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    row = train_step.measure(TASK, ["torch", "ours", "plain"], 2, 3)
    assert row["missing"].keys() == {"torch"}
    assert [len(rates) for rates in row["images/s"].values()] == [2, 2]
    # Rounding of ten steps; their losses fall by several per cent.
    np.testing.assert_allclose(row["losses"]["ours"], row["losses"]["plain"], rtol=1e-4)
    assert row["losses"]["ours"] < 2.5
    # C1 and C3 have 117,600 and 240,000 multiply-adds, the other layers 58,920.
    assert row["flop/step"] == 6 * 4 * (117_600 + 240_000 + 58_920)
    assert row["bytes/step"] > 4 * 61_706
    assert row["differs"] == []


def test_plain_convolutions_are_laxs():
    with train_step.plain_convolutions():
        assert layers.Conv(1, 3, 1, 0).conv_general_dilated is lax.conv_general_dilated
    assert layers.Conv(1, 3, 1, 0).conv_general_dilated is ops.conv


def test_networks_of_different_size_are_refused(monkeypatch):
    other = types.SimpleNamespace(parameters=61_705, run=lambda num_steps: 0.0)
    monkeypatch.setitem(train_step.CONTESTANTS, "torch", lambda task: other)
    with pytest.raises(ValueError, match=r"lenet5_modern is not one network.*61705"):
        train_step.measure(TASK, ["torch", "ours"], 1, 1)


def test_a_batch_that_does_not_fit_is_halved(capsys):
    def measure(task, rounds):
        if task.batch > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return task.batch, rounds

    task = dataclasses.replace(TASK, batch=8)
    assert side_by_side.measure_what_fits(measure, task, 5) == (2, 5)
    assert "a batch of 4 does not fit" in capsys.readouterr().out


def test_arrays_whose_bits_change_are_named():
    numbers = itertools.count()

    def program(state, sums, batch, seed):
        del batch
        return {**state, "conv1": {"kernel": jnp.full(3, next(numbers))}}, sums

    fake = types.SimpleNamespace(
        state={"conv1": {"kernel": jnp.zeros(3)}, "fc": jnp.ones(2)},
        program=program,
        batch=None,
        task=types.SimpleNamespace(zero_sums=dict),
    )
    assert train_step.Ours.different_bits(fake) == ["conv1.kernel"]


@pytest.mark.parametrize("old", [{}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}])
def test_a_share_of_the_gpu_has_one_name(monkeypatch, old):
    """jaxlib refuses the two names together."""
    environment = dict(old)
    monkeypatch.setattr(side_by_side.os, "environ", environment)
    monkeypatch.setattr(sys, "argv", ["train_step", "--device=gpu"])
    parser = side_by_side.argument_parser("", ["torch", "ours"])
    with pytest.raises(SystemExit):  # there is no GPU
        side_by_side.parse(parser, ["ours"], ["torch", "ours"])
    assert environment == (old or {"XLA_CLIENT_MEM_FRACTION": "0.45"})


def test_a_missing_package_of_ours_is_no_missing_pytorch(monkeypatch):
    torch = types.SimpleNamespace(channels_last=0)
    monkeypatch.setattr(side_by_side, "import_torch", lambda device: (torch, device))
    module = types.ModuleType("torch_networks")
    monkeypatch.setitem(sys.modules, "benchmarks.torch_networks", module)
    monkeypatch.setattr(benchmarks, "torch_networks", module, raising=False)

    def missing(name):
        raise ImportError("no torchvision")

    module.create = missing
    with pytest.raises(side_by_side.Missing, match="no torchvision"):
        side_by_side.TorchContestant(TASK)
    monkeypatch.delattr(benchmarks, "torch_networks")
    monkeypatch.setitem(sys.modules, "benchmarks.torch_networks", None)
    with pytest.raises(ImportError, match="torch_networks"):
        side_by_side.TorchContestant(TASK)


def test_table():
    names = ["torch", "compiled", "ours"]
    head = train_step.table_head(names, "G")
    assert head.splitlines()[0].split(" | ")[2:7] == [
        *names,
        "ours / torch",
        "ours / compiled",
    ]
    # The ratios are 2, 1/2 and 3/2; 5 steps a second.
    row = train_step.table_row(ROW, names, 1e9)
    expected = "| resnet18 | 4 | 20 |  | 20 | 1.50 |  | 40 | 10 | yes |"
    assert row == expected
    assert head.splitlines()[1].count("|") == row.count("|")
    differs = ["params.conv1.kernel", "params.bn1.scale"]
    row = train_step.table_row({**ROW, "differs": differs}, names, 1e9)
    assert row.endswith("| not of params.conv1.kernel, params.bn1.scale |")


def test_the_command_needs_neither_torch_nor_tensorflow():
    code = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "torch", "torchvision", "timm"):
    sys.modules[name] = None
sys.argv = ["train_step", "--networks=lenet5_modern", "--contestants=torch,ours",
            "--dtype=bfloat16", "--batch=4", "--rounds=1", "--steps=1"]
from benchmarks import train_step
# Of the machine's limits, one series of one call: 15 take longer than all the rest.
def once(call, wait):
    wait(call())
    return 1.0
train_step.seconds_of = once
train_step.main()
"""
    child = runs.run_code(code)
    assert re.search(r"^\| lenet5_modern \| 4 \|  \| [\d.,]+ \|", child.stdout, re.M)
    assert "lenet5_modern without torch: " in child.stdout


@pytest.mark.slow
def test_a_pass_is_the_same_in_one_call_and_in_several():
    split = data_source.open_split("mnist", "train[:8]")
    order = np.array([3, 1, 0, 2, 5, 6])
    losses = [
        lenet_pass.jax_pass("lenet5_modern", split, 2, plain, steps)(order)
        for plain, steps in ((False, 100), (True, 1))
    ]
    # Rounding of three steps.
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_the_first_answer_comes_before_the_end():
    arguments = ["--mode=summarize", "--config=configs/lenet5.py"]
    answer, whole, until, processor = first_answer.measure(first_answer.ROOT, arguments)
    assert 0 < answer <= whole and 0 < until <= processor + 0.01  # a clock tick
    with pytest.raises(RuntimeError, match="--mode=none gave no answer"):
        first_answer.measure(first_answer.ROOT, ["--mode=none"])


def test_start_up_begins_as_main_does():
    """It once measured without the restart, and with more garbage collections."""
    code = """
import gc, sys
from benchmarks import start_up
before = gc.get_threshold()
start_up.huge_pages.start_anew = lambda: print("anew, jax:", "jax" in sys.modules)
try:
    start_up.run_main(0.0, ["--help"])
finally:
    import main
    print(gc.get_threshold(), main.THRESHOLD == before)
"""
    done = runs.run_code(code).stdout.splitlines()
    assert done[0] == "anew, jax: False"
    assert done[-1] == "(100000, 50, 100) True"


@pytest.mark.slow
def test_the_phases_of_start_up_are_all_of_it(tmp_path):
    one_device = (*start_up.RUNS["lenet5"], "--config.num_devices=1")
    seconds = start_up.measure(one_device, tmp_path)
    total, compiled = seconds.pop("total"), seconds.pop("compiled")
    assert seconds.keys() == {"imports", "data", "init", "step", "rest"}
    assert all(x > 0 for x in seconds.values())
    assert sum(seconds.values()) == pytest.approx(total)
    assert 0 < compiled < total
    assert list(tmp_path.iterdir())  # compiled programs


def test_a_profile_has_the_operations_of_the_program(tmp_path):
    x = jnp.ones((512, 512))
    program = jax.jit(lambda x: jnp.tanh(x @ x).T.copy()).lower(x).compile()
    with jax.profiler.trace(tmp_path):
        for _ in range(profile_step.STEPS):
            jax.block_until_ready(program(x))
    spent = profile_step.milliseconds(tmp_path)
    known = profile_step.shapes(program.as_text())
    assert any("f32[512,512]" in known.get(name, "") for name in spent)
    assert all(time > 0 for time in spent.values())


def test_kinds_of_operations():
    names = "add_fusion.12", "onednn_conv.3__onednn$convolution", "dot"
    kinds = [profile_step.kind(name) for name in names]
    assert kinds == ["add_fusion", "onednn_conv__onednn$convolution", "dot"]


@pytest.mark.skipif(not native.available(), reason="kernels/native.py built nothing")
@pytest.mark.parametrize("of", ["convolution", "gradient"])
@pytest.mark.parametrize("layer", [(2, 7, 6, 8, 3, 2, 2), (16, 8, 16, 16, 3, 1, 1)])
def test_contestants_compute_the_same(of, layer):
    n, size, cin, cout, kernel, stride, groups = layer
    with ops.every_kernel():
        work, found = convolutions.contestants(of, *layer)
    out = -(-size // stride)
    assert work == n * out**2 * cout * kernel**2 * cin // groups
    results = {
        name: np.asarray(run()) for name, run in found.items() if name != "torch"
    }
    if "torch" in found:
        result = found["torch"]()
        axes = (0, 2, 3, 1) if of == "convolution" else (2, 3, 1, 0)
        result = result if of == "convolution" else result[1]
        results["torch"] = result.permute(*axes).numpy()
    for result in results.values():
        # Sums of up to 1,024 terms of size 1.
        np.testing.assert_allclose(result, results["without"], rtol=0, atol=3e-4)


def test_single_convolutions_have_the_libraries_of_main(monkeypatch):
    """The gradients of "without" were once YNNPACK's, and main.py has Eigen's."""
    monkeypatch.setattr(ops, "compiler_options", lambda platform: {"xla_of_ours": 1})
    with pytest.raises(RuntimeError, match="xla_of_ours"):
        convolutions.contestants("gradient", 2, 7, 6, 8, 3, 2, 2)


@pytest.mark.parametrize("row", train_families.ROWS, ids=lambda row: row[1])
def test_a_family_sees_whole_digits(row):
    """Of a paper's crops of 256 pixels most hold nothing but background."""
    config = train_families.small_config(*row, 512)
    assert config.augment.to_dict() == default.get_config().augment.to_dict()


@pytest.mark.parametrize(
    ("module", "flag"),
    [(detection_step, "--rows"), (photographs, "--only"), (train_families, "--only")],
)
def test_a_row_that_is_not_there_is_an_error(module, flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", f"{flag}=alexnett"])
    with pytest.raises(SystemExit):
        module.main()
    assert f"{flag}: no alexnett; there are " in capsys.readouterr().err
