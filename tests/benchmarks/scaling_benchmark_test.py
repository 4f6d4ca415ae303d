"""The numbers that benchmarks/scaling.py reads from a program or derives from it."""

import pytest

from benchmarks import scaling
from kernels import ops

PROGRAM = """
  %a = f32[3,4]{1,0} all-reduce(%x), to_apply=%sum
  %b = (f32[16]{0}, bf16[2]{0}, s32[]) all-reduce(%y, %z, %n), to_apply=%sum
  %c = f32[5]{0} all-reduce-start(%x), to_apply=%sum
  %d = f32[5]{0} all-reduce-done(%c)
  %e = f32[16]{0} get-tuple-element(%b), index=0
"""


def test_all_reduces_are_counted_once_with_their_bytes():
    count, sizes = scaling.all_reduces(PROGRAM)
    assert count == 3
    assert sizes == {"f32": 4 * (12 + 16 + 5), "bf16": 4, "s32": 4}


def test_another_collective_is_not_overlooked():
    with pytest.raises(ValueError, match="all-gather"):
        scaling.all_reduces(PROGRAM + "  %f = f32[8]{0} all-gather-start(%x)")


def test_a_step_is_compiled_as_train_py_does(monkeypatch):
    monkeypatch.setattr(ops, "compiler_options", lambda platform: {"xla_of_ours": 1})
    with pytest.raises(RuntimeError, match="xla_of_ours"):
        scaling.Step("lenet5_modern", 28, 1, 2, devices=1)


@pytest.mark.slow
def test_the_volume_is_that_of_the_gradients_and_statistics():
    found = scaling.volume("resnet20", 28, 1, 16)
    assert found.channels == 7 * 16 + 6 * 32 + 6 * 64
    # A gradient for each parameter; for each normalised channel the sums of x and x^2:
    # those of the backward pass are the gradients of scale and shift. The loss.
    total = 4 * found.parameters + 8 * found.channels + 4
    assert found.bytes["s32"] == 4  # errors
    # On a CPU the gradient of a convolution of few channels travels in the form that
    # kernels/convolution.py gives its kernel, which is larger.
    assert total <= found.bytes["f32"] < 1.02 * total
    assert 19 <= found.count <= 3 * 19 + 2


def test_efficiency_by_hand():
    cluster = scaling.Cluster(devices=4, bandwidth=1e9, latency=1e-3)
    # The ring: 2 * 3 / 4 * 0.2 s and a millisecond; 10 * 2 waits of a millisecond.
    inputs = {"step": 0.3, "num_bytes": 2e8, "num_norms": 10}
    overlapped, plain = scaling.expected(cluster, **inputs)
    assert plain == pytest.approx(0.3 / (0.3 + 0.301 + 0.020))
    # 0.2 s of it are behind two thirds of the step.
    assert overlapped == pytest.approx(0.3 / (0.3 + 0.101 + 0.020))


def test_one_accelerator_more_costs_only_the_latency_where_links_are_fast():
    cluster = scaling.Cluster(devices=2, bandwidth=1e15, latency=1e-4)
    overlapped, plain = scaling.expected(cluster, step=1, num_bytes=1e6, num_norms=0)
    assert overlapped == pytest.approx(1 / 1.0001)
    assert plain == pytest.approx(overlapped)


def test_the_table_takes_the_readers_rates(capsys):
    scaling.print_expected({"vgg16": 100.0}, batch=256)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(scaling.CLUSTERS)
    assert all(line.split()[:3] == ["vgg16", "100", "2560.0"] for line in lines[2:])
