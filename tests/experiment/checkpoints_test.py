"""Checkpoints: what is saved comes back, whatever happens to the files in between."""

import contextlib
import errno
import logging
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.experimental import multihost_utils

from errors import UserError
from experiment import checkpoints
from experiment.checkpoints import CheckpointError, Checkpoints, IncompatibleCheckpoint

ROOT = pathlib.Path(checkpoints.__file__).parents[1]


@flax.struct.dataclass
class State:
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any


def make_state(step=0, channels=1, ema=False):
    kernel = jax.random.normal(jax.random.key(step), (5, 5, channels, 6))
    params = {
        "C1": {"kernel": kernel, "bias": jnp.full(6, step, jnp.float32)},
        "F6": {"kernel": jnp.arange(84, dtype=jnp.bfloat16) + step},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(
        step=jnp.int32(step),
        params=params,
        batch_stats={},
        opt_state=tx.init(params),
        ema=params if ema else None,
    )


def abstract(state, sharding=None):
    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding)

    return jax.tree.map(leaf, state)


def replicated(count):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e))


@pytest.fixture
def warned():
    """The lines that a user sees of log messages at warning level or above."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("absl").addHandler(handler)
    yield lines
    logging.getLogger("absl").removeHandler(handler)


def save_steps(directory, steps, **kwargs):
    run = Checkpoints(directory, **kwargs)
    for step in steps:
        run.save(step, make_state(step), meta={"epoch": step / 2})
    run.close()


def restored_step(directory):
    run = Checkpoints(directory)
    state, step, meta = run.restore(abstract(make_state()))
    assert_same(state, make_state(step))
    assert meta == {"epoch": step / 2}
    return step


def best_step(run):
    return run.restore(best=True)[1]


@pytest.mark.parametrize("ema", [False, True])
def test_round_trip(tmp_path, ema, warned):
    run = Checkpoints(tmp_path / "new" / "checkpoints")
    assert run.restore(abstract(make_state())) is None
    assert not run.exist()
    assert not (tmp_path / "new").exists()  # reading makes nothing
    run.save(7, make_state(7, ema=ema), {"error": 0.5}, {"epoch": 1.5, "names": ["a"]})
    run.close()
    run = Checkpoints(tmp_path / "new" / "checkpoints")
    state, step, meta = run.restore(abstract(make_state(ema=ema)))
    assert_same(state, make_state(7, ema=ema))
    assert (step, meta) == (7, {"epoch": 1.5, "names": ["a"]})
    assert (run.all_steps(), best_step(run), run.exist()) == ([7], 7, True)
    assert not run.reached_preemption(7)
    assert not warned


def test_restore_without_a_model_gives_numpy_as_saved(tmp_path):
    save_steps(tmp_path, [3])
    state, step, _ = Checkpoints(tmp_path).restore()
    assert step == 3
    assert_same(state["params"], jax.tree.map(np.asarray, make_state(3).params))
    assert state.keys() == {"step", "params", "opt_state"}  # the rest is empty


@pytest.mark.parametrize("ema", [False, True])
def test_restore_of_some_parts_reads_no_others(tmp_path, ema):
    state = make_state(step=7, ema=ema)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(7, state, meta="notes")
        checkpoints.wait()
        found = checkpoints.restore(parts=("params", "batch_stats", "ema"))
        assert found[1:] == (7, "notes")
        expected = {"params": state.params} | ({"ema": state.ema} if ema else {})
        assert found[0].keys() == expected.keys()
        assert_same(found[0], expected)


def test_a_finished_step_is_not_saved_again(tmp_path):
    run = Checkpoints(tmp_path)
    for value in (4, 5):
        run.save(4, make_state(value))
    run.close()
    assert_same(run.restore(abstract(make_state()))[0], make_state(4))


def test_an_evaluation_after_a_stop_adds_its_metrics(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(4, make_state(4))
    run.save(5, make_state(5), {"error": 0.5})
    for again in (run, Checkpoints(tmp_path)):
        for error in (0.1, 0.9):  # the first counts
            again.save(4, make_state(4), {"error": error})
        again.close()
        assert best_step(again) == best_step(Checkpoints(tmp_path)) == 4
    assert_same(run.restore(abstract(make_state()))[0], make_state(5))


def test_added_metrics_are_on_disk_before_the_old_record_goes(tmp_path, monkeypatch):
    save_steps(tmp_path, [4])
    record, synced, run = tmp_path / "4/meta/metadata", [], Checkpoints(tmp_path)
    before = record.read_bytes()

    def fsync(number):
        path = os.readlink(f"/proc/self/fd/{number}")
        synced.append((path, os.path.getsize(path) > 0, record.read_bytes() == before))

    monkeypatch.setattr(os, "fsync", fsync)
    run.save(4, make_state(4), {"error": 0.1})
    assert (f"{record}.tmp", True, True) in synced

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_steps(tmp_path, [5])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="checkpoint 5 .*: No space left"):
        Checkpoints(tmp_path).save(5, make_state(5), {"error": 0.1})
    assert restored_step(tmp_path) == 5


def test_a_step_before_another_process_s_is_not_saved(tmp_path):
    save_steps(tmp_path, [3])
    run = Checkpoints(tmp_path)
    save_steps(tmp_path, [5])
    with pytest.raises(CheckpointError, match="step 4 is not saved .* checkpoint 5 in"):
        run.save(4, make_state(4))
    assert run.all_steps() == [3, 5]


def test_keeps_the_newest_and_the_best(tmp_path):
    run = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    errors = {1: 0.5, 2: 0.1, 3: 0.4, 4: None, 5: 0.1, 6: float("nan"), 7: None}
    for step, error in errors.items():
        run.save(step, make_state(step), None if error is None else {"error": error})
    run.close()
    assert (run.all_steps(), best_step(run)) == ([5, 6, 7], 5)
    run = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    assert (run.all_steps(), best_step(run)) == ([5, 6, 7], 5)
    run.save(8, make_state(8), {"error": 0.05})
    run.close()
    assert (run.all_steps(), best_step(run)) == ([7, 8], 8)
    assert sorted(os.listdir(tmp_path)) == ["7", "8"]


def test_metrics_without_the_one_that_counts(tmp_path):
    run = Checkpoints(tmp_path, best_metric="miss_rate")
    run.save(1, make_state(1), {"miss_rate": 0.2, "loss": 0.0})
    with pytest.raises(KeyError, match="miss_rate"):
        run.save(2, make_state(2), {"loss": 0.0})
    run.close()
    assert (best_step(run), run.all_steps()) == (1, [1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "truncate": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flip": flip,
    "delete": pathlib.Path.unlink,
}


def test_any_damage_to_any_file_is_noticed_or_harmless(tmp_path, warned):
    save_steps(tmp_path / "good", [1, 2])
    files = [p for p in (tmp_path / "good" / "2").rglob("*") if p.is_file()]
    noticed, gone_on = set(), set()
    for file in files:
        for name, damage in DAMAGES.items():
            shutil.copytree(tmp_path / "good", tmp_path / "run")
            damage(tmp_path / "run" / file.relative_to(tmp_path / "good"))
            # restored_step compares every bit, so 2 means the damage was harmless.
            step = restored_step(tmp_path / "run")
            assert len(warned) == (2 - step)
            if step == 1:
                noticed.add((file.relative_to(tmp_path / "good" / "2").parts[0], name))
                assert "checkpoint 2 in" in warned[0]
                assert "going on from checkpoint 1" in warned[0]
            kind = (file.relative_to(tmp_path / "good" / "2").parts[0], name, step)
            if kind not in gone_on:  # writing goes on either way
                save_steps(tmp_path / "run", [2, 3])
                assert restored_step(tmp_path / "run") == 3
                gone_on.add(kind)
            warned.clear()
            shutil.rmtree(tmp_path / "run")
    needed = {(item, name) for item in ("state", "meta") for name in DAMAGES}
    assert noticed == needed


def test_a_flipped_bit_of_an_array_is_noticed(tmp_path, warned):
    """TensorStore itself reads it without an error."""
    run = Checkpoints(tmp_path)
    for step in (1, 2):
        run.save(step, {"x": np.random.default_rng(step).random(30_000)})
    run.close()
    data = (tmp_path / "2" / "state" / "ocdbt.process_0" / "d").iterdir()
    flip(max(data, key=lambda p: p.stat().st_size))
    state, step, _ = run.restore()
    assert step == 1
    assert_same(state, {"x": np.random.default_rng(1).random(30_000)})
    assert "(ValueError: checksum mismatch in x)" in warned[0]


def test_damaged_steps_in_a_row_are_set_aside(tmp_path, warned):
    save_steps(tmp_path, [1, 2, 3, 4, 5], keep_last=5)
    for path in (tmp_path / "5").rglob("*"):
        if path.is_file():
            path.unlink()
    shutil.rmtree(tmp_path / "4" / "state")
    (tmp_path / "3" / "meta" / "metadata").write_text("{}")
    (tmp_path / "damaged-4").mkdir()
    run = Checkpoints(tmp_path, keep_last=5)
    state, step, _ = run.restore(abstract(make_state()))
    assert step == 2
    assert [line.split()[1] for line in warned] == ["5", "4", "3"]
    assert run.all_steps() == [1, 2]
    run.save(3, state.replace(step=jnp.int32(33)))
    run.close()
    assert sorted(os.listdir(tmp_path)) == [
        *("1", "2", "3", "damaged-3", "damaged-4", "damaged-4-2", "damaged-5")
    ]
    assert run.restore(abstract(state))[0].step == 33
    assert len(warned) == 3


def test_no_good_checkpoint_is_an_error_and_changes_nothing(tmp_path, warned):
    save_steps(tmp_path, [1, 2])
    for step in (1, 2):
        (tmp_path / str(step) / "meta" / "metadata").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)all checkpoints.*2: .*1: .*step 0"):
        Checkpoints(tmp_path).restore(abstract(make_state()))
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def save_errors(directory, errors, **kwargs):
    """Saves a checkpoint for each {step: error}."""
    run = Checkpoints(directory, **kwargs)
    for step, error in errors.items():
        metrics = None if error is None else {"error": error}
        run.save(step, make_state(step), metrics, meta={"epoch": step / 2})
    run.close()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_checkpoint_whose_record_is_damaged_is_never_deleted(tmp_path, warned, name):
    """It may be the best one. Its rank was once taken as the last."""
    save_errors(tmp_path, {1: 0.1, 2: 0.5, 3: 0.4, 4: 0.3}, keep_last=2)
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "4"]
    DAMAGES[name](tmp_path / "1" / "meta" / "metadata")
    save_errors(tmp_path, {5: 0.2, 6: 0.5, 7: 0.4}, keep_last=2)
    assert sorted(os.listdir(tmp_path)) == ["1", "5", "6", "7"]
    (line,) = warned
    assert f"the record of checkpoint {tmp_path}/1 cannot be read" in line
    assert "it may be the best one, so it is kept until you remove it" in line


def test_the_best_falls_back_and_says_so(tmp_path, warned):
    save_errors(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3, 4: None}, keep_last=4)

    def best():
        state, step, _ = Checkpoints(tmp_path).restore(best=True)
        assert_same(state["params"], jax.tree.map(np.asarray, make_state(step).params))
        lines = "\n".join(warned)
        warned.clear()
        return step, lines

    assert best() == (1, "")
    shutil.rmtree(tmp_path / "1" / "state")
    step, lines = best()
    assert step == 2
    assert f"checkpoint 1 in {tmp_path} is damaged (" in lines
    assert "): going on from checkpoint 2" in lines
    flip(tmp_path / "2" / "meta" / "metadata")
    step, lines = best()
    assert step == 3
    assert f"the record of checkpoint {tmp_path}/2 cannot be read (" in lines
    assert "it may be the best one, but checkpoint 3 is taken" in lines
    shutil.rmtree(tmp_path / "3")
    step, lines = best()
    assert step == 4
    assert "was saved with an evaluation: taking checkpoint 4, the newest" in lines


def test_one_step_on_demand(tmp_path, warned):
    save_steps(tmp_path, [1, 2, 3])
    run = Checkpoints(tmp_path)
    assert_same(run.restore(abstract(make_state()), step=2)[0], make_state(2))
    with pytest.raises(CheckpointError, match=r"no checkpoint 9 in .*\[1, 2, 3\]"):
        run.restore(abstract(make_state()), step=9)
    shutil.rmtree(tmp_path / "2" / "state")
    with pytest.raises(CheckpointError, match="checkpoint 2 in .* is damaged"):
        run.restore(abstract(make_state()), step=2)
    assert not warned


def test_another_model_is_refused_leaf_by_leaf(tmp_path, warned):
    save_steps(tmp_path, [1, 2])
    model = make_state(channels=3, ema=True)
    model.params["C1"]["bias"] = jnp.zeros(6, jnp.float16)
    with pytest.raises(IncompatibleCheckpoint) as error:
        Checkpoints(tmp_path).restore(abstract(model))
    lines = str(error.value).splitlines()
    assert "(7 leaves differ)" in lines[0]
    kernel = "checkpoint (5, 5, 1, 6), model (5, 5, 3, 6)"
    assert f"  params/C1/kernel: {kernel}" in lines
    assert f"  opt_state/1/0/mu/C1/kernel: {kernel}" in lines
    assert "  params/C1/bias: checkpoint float32 (6,), model float16 (6,)" in lines
    assert "  ema/F6/kernel: checkpoint none, model bfloat16 (84,)" in lines
    assert isinstance(error.value, UserError)
    assert restored_step(tmp_path) == 2  # and it is not set aside
    assert not warned


def test_restores_onto_other_devices(tmp_path):
    for step, (before, after) in enumerate([(4, 1), (1, 4), (1, 8), (8, 4)]):
        directory = tmp_path / str(step)
        state = jax.device_put(make_state(step), replicated(before))
        run = Checkpoints(directory)
        run.save(step, state)
        state, _, _ = run.restore(abstract(make_state(), replicated(after)))
        run.close()
        assert_same(state, make_state(step))
        for leaf in jax.tree.leaves(state):
            assert leaf.sharding.is_equivalent_to(replicated(after), leaf.ndim)
        # The restored buffers are the state's own: each device may overwrite its copy.
        add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
        assert_same(add(state), jax.tree.map(lambda x: x + 1, make_state(step)))


def test_sharded_state(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.device_put(jnp.arange(16.0), split)
    run = Checkpoints(tmp_path)
    run.save(1, {"x": x})
    state, _, _ = run.restore({"x": x})
    run.close()
    assert state["x"].sharding == split
    assert_same(state, {"x": np.arange(16, dtype=np.float32)})


def test_saved_state_may_be_donated_at_once(tmp_path):
    sharding = replicated(2)
    step = jax.jit(lambda x: x * 1.5 + 1, donate_argnums=0)
    x = jax.device_put(jnp.ones((1000, 1000)), sharding)
    run = Checkpoints(tmp_path)
    for i in range(1, 4):
        for _ in range(3):
            x = step(x)
        expected = np.array(x)
        run.save(i, {"x": x})
        for _ in range(5):
            x = step(x)  # overwrites the buffer that is being saved
        run.wait()
        assert_same(run.restore({"x": x})[0], {"x": expected})
    run.close()


def test_host_arrays_are_copied(tmp_path):
    x = np.ones(1_000_000, np.float32)
    run = Checkpoints(tmp_path)
    run.save(1, {"x": x})
    x[:] = 2
    run.close()
    assert (run.restore()[0]["x"] == 1).all()


@contextlib.contextmanager
def small_disk(directory):
    """A real file system of 1 MB, full when "full" is called."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_full_disk(tmp_path, warned):
    with small_disk(tmp_path):
        run = Checkpoints(tmp_path)
        run.save(1, make_state(1), {"error": 0.5})
        run.wait()
        with open(tmp_path / "ballast", "wb") as file:
            file.write(bytes(os.statvfs(tmp_path).f_bavail * 4096 - 20_000))
        big = {"x": np.random.default_rng(0).random(30_000)}  # 240 kB
        message = f"cannot write checkpoint 2 to {tmp_path}: No space left on device"
        with pytest.raises(CheckpointError, match=message) as error:
            run.save(2, big, {"error": 0.1})
            run.wait()
        assert "goes on from step 1" in str(error.value)
        assert sorted(os.listdir(tmp_path)) == ["1", "ballast"]
        assert (run.all_steps(), best_step(run)) == ([1], 1)
        assert_same(run.restore(abstract(make_state()))[0], make_state(1))
        os.unlink(tmp_path / "ballast")
        run.save(3, big)
        run.close()
        assert_same(run.restore()[0], big)
    assert not warned  # the error says it once


def test_full_disk_is_told_in_one_line(tmp_path, capfd):
    """Writes that were still running once reported to a closed event loop."""
    rng = np.random.default_rng(0)
    run = Checkpoints(tmp_path)
    with runs.file_size_limit(20_000):
        run.save(1, {str(n): rng.random(10_000) for n in range(30)})
        with pytest.raises(CheckpointError, match="File too large"):
            run.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("surfaces_at", ["wait", "close"])
def test_failed_write_surfaces_at_the_next_call(tmp_path, surfaces_at):
    run = Checkpoints(tmp_path, keep_last=1)
    run.save(1, make_state(1))
    run.wait()
    big = {"x": np.random.default_rng(0).random(30_000)}
    with runs.file_size_limit(50_000):
        run.save(2, big)
        while run._manager.is_saving_in_progress():
            time.sleep(0.01)
        with pytest.raises(CheckpointError, match="checkpoint 2 .*: File too large"):
            getattr(run, surfaces_at)()
    assert os.listdir(tmp_path) == ["1"]
    run.save(2, make_state(2))  # the same step, now that there is room
    run.close()
    assert os.listdir(tmp_path) == ["2"]
    assert_same(run.restore(abstract(make_state()))[0], make_state(2))


def test_a_save_that_failed_costs_no_later_one(tmp_path, warned):
    """The next save once raised the error of the one before, and wrote nothing."""
    run = Checkpoints(tmp_path)
    big = {"x": np.random.default_rng(0).random(30_000)}
    with runs.file_size_limit(50_000):
        run.save(1, big)
        while run._manager.is_saving_in_progress():
            time.sleep(0.01)
        with pytest.raises(CheckpointError, match="checkpoint 2 .*: File too large"):
            run.save(2, big)
        run.save(3, big)
        while run._manager.is_saving_in_progress():
            time.sleep(0.01)
    assert not warned
    run.save(4, make_state(4), {"error": 0.1})
    assert sorted(os.listdir(tmp_path)) == ["4"]
    assert warned == [
        f"cannot write checkpoint 3 to {tmp_path}: File too large, but checkpoint 4 "
        "is written"
    ]
    run.close()
    assert_same(run.restore(abstract(make_state()))[0], make_state(4))


def test_a_save_leaves_the_number_by_which_processes_stop(tmp_path, monkeypatch):
    """Orbax asks JAX whether to stop at the step that it saves, in process 0 alone."""
    asked = []
    service = "reached_preemption_sync_point"
    monkeypatch.setattr(multihost_utils, service, asked.append)
    save_steps(tmp_path, [1, 2])
    assert not asked
    Checkpoints(tmp_path).reached_preemption(3)
    assert asked == [3]


def test_read_only_directory(tmp_path, warned):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2" / "meta" / "metadata").unlink()
    before = set(threading.enumerate())
    with runs.read_only(tmp_path) as reason:
        run = Checkpoints(tmp_path)
        state, step, _ = run.restore(abstract(make_state()))
        assert step == 1
        assert len(warned) == 1
        with pytest.raises(CheckpointError, match=f"{tmp_path}: {reason}; make room"):
            run.save(3, state)
        run.close()
        fresh = Checkpoints(tmp_path)
        with pytest.raises(CheckpointError, match=f"checkpoint 3 to .*: {reason}"):
            fresh.save(3, state)
            fresh.wait()
        with pytest.raises(CheckpointError, match=reason):
            Checkpoints(tmp_path / "new").save(3, state)
        for thread in set(threading.enumerate()) - before:
            thread.join(timeout=60)
            assert not thread.is_alive()  # it would keep the process from ending
    run.save(3, state)
    run.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "damaged-2"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    run = Checkpoints(tmp_path / "file")
    assert run.restore() is None
    with pytest.raises(CheckpointError, match="File exists"):
        run.save(1, make_state())


KILLED = """
import sys, numpy as np
from errors import UserError
from experiment import checkpoints
run = checkpoints.Checkpoints(sys.argv[1])
x = np.random.default_rng(0).random(8_000_000)
run.save(1, {"x": x[:10]})
run.wait()
run.save(2, {"x": x})
print("saving", flush=True)
run.close()
print("saved", flush=True)
"""


def test_kill_in_the_middle_of_a_save(tmp_path, warned):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"saving\n"
        child.send_signal(signal.SIGKILL)
        assert child.stdout.read() == b""
    assert sorted(os.listdir(tmp_path)) == ["1", "2.orbax-checkpoint-tmp"]
    run = Checkpoints(tmp_path)
    state, step, _ = run.restore()
    assert step == 1
    assert_same(state, {"x": np.random.default_rng(0).random(10)})
    run.save(3, state)
    run.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "3"]
    assert not warned


@pytest.mark.slow
def test_two_processes_agree(tmp_path, warned):
    """2 processes x 2 devices over gloo; the run is read back by one process."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    worker = pathlib.Path(__file__).with_name("checkpoints_worker.py")
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", worker, str(port), str(i), tmp_path],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        results = [child.communicate(timeout=60) for child in children]
    finally:
        for child in children:
            child.kill()
    for child, (out, err) in zip(children, results, strict=True):
        assert child.returncode == 0, err
        assert out.splitlines()[-1] == "all good", out
    # The damage was found by both, its warning is printed by process 0 alone.
    warnings = [err.count("is damaged") for _, err in results]
    assert warnings == [2, 0]
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "damaged-2", "damaged-3"]
    like = {"x": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=replicated(1))}
    state, step, _ = Checkpoints(tmp_path).restore({**like, "y": like["x"]})
    assert step == 2
    assert_same(state["x"], jnp.arange(16.0) + 20)
    assert_same(state["y"], jnp.arange(16.0) - 20)
