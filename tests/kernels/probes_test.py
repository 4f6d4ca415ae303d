"""Features that a jaxlib lacks are detected, left out and reported."""

import json
import logging
import sys

import jax
import pytest

from kernels import native, onednn_check, ops, probes
from kernels.choice import choice

called = pytest.mark.skipif(
    not all(map(probes.has_call, probes.CALLS)), reason="jaxlib has no oneDNN"
)


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """Starts without any answers, and keeps new ones in a folder of the test."""
    native.available()  # asked in the environment, whose answer stays
    monkeypatch.setattr(choice, "onednn", None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probes.has_option.cache_clear()
    yield tmp_path
    probes.has_option.cache_clear()


def instead(monkeypatch, script):
    """Lets the child run a script, which has the name of the call in sys.argv[1]."""
    command = [sys.executable, "-c", script]
    monkeypatch.setattr(probes, "child", lambda name: [*command, name])


@called
def test_the_calls_are_tried_once_and_the_answer_is_kept(afresh, monkeypatch, caplog):
    """The children that try them do not depend on flags of this process."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_there_is_no_such_flag")
    monkeypatch.setenv("JAX_PLATFORMS", "nowhere")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert all(map(probes.has_call, probes.CALLS))
    (kept,) = afresh.rglob("*.json")
    assert kept.parent == afresh / "prefix" / "lib" / "convnets"
    assert json.loads(kept.read_text()) == dict.fromkeys(probes.CALLS, "")
    instead(monkeypatch, "raise SystemExit('tried again')")
    monkeypatch.setattr(choice, "onednn", None)
    assert all(map(probes.has_call, probes.CALLS))
    assert not caplog.records


def test_a_child_that_crashes_switches_its_call_off(afresh, monkeypatch, caplog):
    script = "import os, sys; sys.argv[1] == 'convolution' and os.abort()"
    instead(monkeypatch, script)
    assert not probes.has_call("convolution")
    assert probes.has_call("matmul")
    (record,) = caplog.records
    assert (
        "convolution is not used: it ended the process with signal 6" in record.message
    )
    if jax.default_backend() == "cpu":
        described = ops.describe(1)
        assert "onednn" not in described["convolution"]
        assert described["product"] == "onednn"
    assert len(caplog.records) == 1
    assert list(afresh.rglob("*.json"))


WRONG = """if 1:
    from kernels import onednn, onednn_check
    plain = onednn.plain_conv
    onednn.plain_conv = lambda *operands, **options: 1.01 * plain(*operands, **options)
    onednn_check.main()
"""


@pytest.mark.slow
@called
def test_wrong_numbers_switch_a_call_off(afresh, monkeypatch, caplog):
    instead(monkeypatch, WRONG)
    assert not probes.has_call("convolution")
    assert probes.has_call("matmul")
    (record,) = caplog.records
    assert "its numbers are wrong by" in record.message


def test_a_call_that_xla_does_not_make_is_no_success(monkeypatch):
    monkeypatch.setattr(choice, "onednn", dict.fromkeys(probes.CALLS, "missing"))
    for name in probes.CALLS:
        with pytest.raises(ArithmeticError, match="did not make the call"):
            onednn_check.check(name)


def test_an_answer_from_outside_is_not_kept(afresh, monkeypatch):
    instead(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert "signal 9" in probes.probe()["matmul"]
    monkeypatch.setattr(probes, "child", lambda name: [str(afresh / "nothing")])
    assert "could not be tried" in probes.probe()["matmul"]
    instead(monkeypatch, "raise MemoryError('no memory today')")
    assert "no memory today" in probes.probe()["matmul"]
    instead(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(probes, "_PATIENCE", 0.1)
    assert "timed out" in probes.probe()["matmul"]
    assert not list(afresh.rglob("*.json"))


@pytest.mark.parametrize(
    "words, code", [("UNIMPLEMENTED: no", 3), ("RESOURCE_EXHAUSTED: Out of", 1)]
)
def test_a_check_that_lacks_memory_says_nothing_for_another_time(
    monkeypatch, capsys, words, code
):
    def check(name):
        raise jax.errors.JaxRuntimeError(f"{words}\nreason")

    monkeypatch.setattr(onednn_check, "check", check)
    monkeypatch.setattr(sys, "argv", ["onednn_check", "matmul"])
    monkeypatch.setattr(choice, "onednn", None)
    with pytest.raises(SystemExit) as ended:
        onednn_check.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{words} reason\n"


def test_an_environment_that_cannot_be_written(afresh, monkeypatch, caplog):
    instead(monkeypatch, "")
    (afresh / "prefix").write_text("no folder")
    assert probes.probe() == dict.fromkeys(probes.CALLS, "")
    (kept,) = afresh.rglob("*.json")
    assert kept.parent == afresh / "cache" / "convnets"
    instead(monkeypatch, "raise SystemExit('tried again')")
    assert all(map(probes.has_call, probes.CALLS))
    assert not caplog.records
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("no folder either")
    instead(monkeypatch, "")
    probes.probe()
    (record,) = caplog.records
    assert "tried at every start" in record.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"convolution": ""}'])
def test_a_damaged_answer_is_asked_for_again(afresh, monkeypatch, text):
    instead(
        monkeypatch,
        "import sys; print('it is not there', file=sys.stderr)\nsys.exit(3)",
    )
    probes.probe()
    (kept,) = afresh.rglob("*.json")
    kept.write_text(text)
    assert not probes.has_call("matmul")
    assert json.loads(kept.read_text())["matmul"] == "it is not there"


def test_another_source_is_asked_again(afresh, monkeypatch):
    instead(monkeypatch, "")
    probes.probe()
    monkeypatch.setattr(probes, "_SOURCES", ("onednn.py", "onednn_check.py", "ops.py"))
    probes.probe()
    assert len(list(afresh.rglob("*.json"))) == 2


def test_an_option_that_xla_does_not_know_is_left_out(afresh, monkeypatch, caplog):
    known = ops.compiler_options("cpu")
    monkeypatch.setitem(ops._LIBRARIES, "xla_cpu_no_such_option", 1)
    monkeypatch.setitem(ops._LIBRARIES, "xla_cpu_prefer_vector_width", "wide")
    assert ops.compiler_options("cpu") == {
        name: value
        for name, value in known.items()
        if name != "xla_cpu_prefer_vector_width"
    }
    ops.compiler_options("cpu")
    first, second = sorted(record.message for record in caplog.records)
    assert "xla_cpu_no_such_option=1 is not used" in first
    assert "xla_cpu_prefer_vector_width=wide is not used" in second


def test_a_pass_that_xla_does_not_have_is_left_out(afresh, monkeypatch, caplog):
    monkeypatch.setitem(ops._BARRIERS, "xla_disable_hlo_passes", "no_such_pass")
    assert "xla_disable_hlo_passes" not in ops.compiler_options("cpu")
    (record,) = caplog.records
    assert "it has no effect" in record.message


def test_this_jaxlib_takes_all_options(afresh):
    assert ops.compiler_options("cpu") == ops._BARRIERS | ops._LIBRARIES


def test_without_the_library_one_line_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.available.cache_clear()
    try:
        assert not native.available() and not native.available()
    finally:
        native.available.cache_clear()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "kernels.native" in record.message
