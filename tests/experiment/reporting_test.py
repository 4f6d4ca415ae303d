"""metrics.jsonl, TensorBoard's files, and progress lines."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import runs
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow

from experiment import reporting

FIRST = {"train/loss": 2.25, "train/learning_rate": 0.05}


def write(directory, steps, **kwargs):
    writer = reporting.MetricWriter(directory, tensorboard=False, **kwargs)
    for step in steps:
        writer.write_scalars(step, {"loss": step / 2})
    writer.close()


def lines(directory):
    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def events(directory):
    """Reads all events in a directory with TensorBoard's reader, which checks CRCs.

    Its EventAccumulator is not used because it imports TensorFlow.
    """
    found = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        reader = pywrap_tensorflow.PyRecordReader_New(str(path))
        with contextlib.suppress(errors.OutOfRangeError):
            while True:
                reader.GetNext()
                found.append(event_pb2.Event.FromString(reader.record()))
        reader.file_handle.close()
    return found


def test_one_json_object_a_report_at_once(tmp_path):
    writer = reporting.MetricWriter(tmp_path, tensorboard=False)
    writer.write_scalars(np.int32(10), {**FIRST, "train/error": np.float32(0.5)})
    expected = {"step": 10, "train/loss": 2.25, "train/learning_rate": 0.05}
    assert lines(tmp_path) == [{**expected, "train/error": 0.5}]  # before it is closed
    writer.write_scalars(10, {"eval/error": 1})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.endswith('\n{"step": 10, "eval/error": 1.0}\n')
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_resuming_drops_what_will_be_written_again(tmp_path):
    write(tmp_path, [10, 20, 20, 30])
    write(tmp_path, [25, 30], first_step=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 20, 25, 30]
    write(tmp_path, [5])  # from the beginning
    assert lines(tmp_path) == [{"step": 5, "loss": 2.5}]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "end", ['{"step": 1', '{"step": 1}', "\0\0\0\n", "\n", '{"loss": 1.0}\n']
)
def test_resuming_drops_damaged_lines(tmp_path, end):
    """A kill can cut the last line anywhere, even just before its end of line."""
    write(tmp_path, [1])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(end)
    write(tmp_path, [2], first_step=1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_other_processes_write_nothing(tmp_path):
    writer = reporting.MetricWriter(tmp_path / "none", enabled=False)
    writer.write_scalars(1, FIRST)
    writer.write_images(1, {"image": np.zeros((4, 4, 3), np.uint8)})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_and_the_next_start_repairs_the_file(tmp_path):
    writer = reporting.MetricWriter(tmp_path, tensorboard=False)
    writer.write_scalars(1, {"loss": 0.5})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with runs.file_size_limit(size + 5):
        with pytest.raises(OSError) as error:
            writer.write_scalars(2, {"loss": 0.25})
        assert error.value.errno == errno.EFBIG
        with pytest.raises(OSError):
            writer.close()  # which tries again
    write(tmp_path, [2, 3], first_step=1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_start_on_a_full_disk_keeps_the_old_lines(tmp_path):
    write(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_text()
    with runs.file_size_limit(10), pytest.raises(OSError):
        write(tmp_path, [], first_step=2)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_tensorboard_reads_the_same_scalars(tmp_path):
    writer = reporting.MetricWriter(tmp_path)
    writer.write_scalars(10, FIRST)
    writer.write_scalars(20, {"train/loss": np.float32(1.5)})
    writer.close()
    version, *found = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    values = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    rate = float(np.float32(0.05))  # TensorBoard's scalars have 32 bits
    assert values == [
        (10, "train/loss", 2.25),
        (10, "train/learning_rate", rate),
        (20, "train/loss", 1.5),
    ]
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_tensorboard_has_images(tmp_path):
    writer = reporting.MetricWriter(tmp_path)
    writer.write_images(3, {"digit": np.zeros((5, 7, 3), np.uint8)})
    writer.close()
    _, _, image = events(tmp_path)
    (value,) = image.summary.value
    assert (image.step, value.tag) == (3, "digit")
    assert (value.image.height, value.image.width) == (5, 7)
    assert value.image.encoded_image_string.startswith(b"\x89PNG")
    assert lines(tmp_path) == []


def test_tensorboard_forgets_the_later_steps_when_a_run_resumes(tmp_path):
    """TensorBoard purges the step of a START event and all later ones."""
    reporting.MetricWriter(tmp_path).close()
    assert [e.step for e in events(tmp_path) if e.HasField("session_log")] == [1]
    reporting.MetricWriter(tmp_path, first_step=20).close()
    (start,) = [event for event in events(tmp_path) if event.HasField("session_log")]
    assert start.session_log.status == event_pb2.SessionLog.START
    assert start.step == 21


def test_a_full_disk_does_not_hang_tensorboards_file(tmp_path):
    """SummaryWriter's thread died on a full disk, and later calls waited for it."""
    writer = reporting.MetricWriter(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    with runs.file_size_limit(5_000), pytest.raises(OSError) as error:
        writer.write_images(1, {"noise": pixels})  # 29 kB
    assert error.value.errno == errno.EFBIG
    for step in range(30):
        writer.write_scalars(step, FIRST)
    writer.close()
    assert len(lines(tmp_path)) == 30


def test_writing_for_tensorboard_does_not_import_tensorflow(tmp_path):
    code = (
        "import pathlib, sys; from experiment import reporting; "
        "writer = reporting.MetricWriter(pathlib.Path(sys.argv[1])); "
        "writer.write_scalars(1, {'loss': 1.0}); writer.close(); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=runs.ROOT)
    assert child.returncode == 0
    assert len(events(tmp_path)) == 3


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets; `clock.now += 1` is a second."""
    clock = types.SimpleNamespace(now=1000.0)
    time = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(reporting, "time", time)
    return clock


def test_rates_are_those_since_the_last_report(clock):
    progress = reporting.Progress(100, 1000, batch_size=50, num_examples=2000)
    clock.now += 10
    progress.waiting(1.5)
    progress.waiting(1.0)
    assert progress.report(120) == {
        "progress/images": 1000,
        "progress/epoch": 3.0,
        "progress/images_per_second": 100.0,
        "progress/data_wait": 0.25,
    }
    clock.now += 2
    assert progress.report(140) == {
        "progress/images": 1000,
        "progress/epoch": 3.5,
        "progress/images_per_second": 500.0,
        "progress/data_wait": 0.0,
    }


def test_an_epoch_need_not_be_whole_steps(clock):
    progress = reporting.Progress(0, 100, batch_size=64, num_examples=100)
    clock.now += 1
    assert progress.report(25)["progress/epoch"] == 16.0


def test_time_that_was_no_training_does_not_count(clock):
    progress = reporting.Progress(0, 1000, batch_size=10, num_examples=100)
    clock.now += 30
    progress.exclude(20)
    progress.exclude(5)
    progress.waiting(1)
    rates = progress.report(10)
    assert (rates["progress/images_per_second"], rates["progress/data_wait"]) == (
        20.0,
        0.2,
    )
    clock.now += 1
    assert progress.report(20)["progress/images_per_second"] == 100.0  # once


def test_an_interval_ends_when_the_device_has_computed_it(clock):
    computed = threading.Event()
    sums = types.SimpleNamespace(block_until_ready=lambda: computed.wait(60))
    progress = reporting.Progress(0, 1000, batch_size=10, num_examples=100)
    ready = progress.when_ready({"loss": sums})
    clock.now += 4
    computed.set()
    assert ready.result(60) == clock.now
    clock.now += 100  # until the host asks
    rates = progress.report(20, ready.result())
    assert rates["progress/images_per_second"] == 50.0
    assert progress.report(40)["progress/images_per_second"] == 2.0


def test_a_report_without_time_or_steps_is_finite(clock):
    progress = reporting.Progress(0, 10, batch_size=10, num_examples=100)
    progress.waiting(1)
    rates = progress.report(0)
    assert (rates["progress/images_per_second"], rates["progress/data_wait"]) == (
        0.0,
        1.0,
    )
    assert np.isfinite(progress.report(1)["progress/images_per_second"])


def test_the_line(clock):
    progress = reporting.Progress(0, 1000, batch_size=50, num_examples=2000)
    clock.now += 30
    progress.waiting(3)
    scalars = {"train/loss": 0.123456, **progress.report(30)}
    assert progress.line(30, scalars, "far  1.23 %") == (
        "step   30/1000  epoch   0.75  loss 0.1235  far  1.23 %"
        "        50 images/s  data wait  10 %  ETA 0:16:10"
    )


def test_eta_is_of_the_steps_since_the_start_and_counts_all_time(clock):
    words = "far 50.00 %"
    scalars = {"progress/epoch": 1.0, "train/loss": 1.0}
    scalars |= {"progress/images_per_second": 123456.7, "progress/data_wait": 1.0}
    progress = reporting.Progress(500, 1000, batch_size=50, num_examples=2000)
    line = progress.line(500, scalars, words)
    assert line.endswith("ETA 0:00:00")  # no step is done yet
    clock.now += 36
    progress.exclude(20)  # evaluations go on until the end, too
    line = progress.line(510, scalars, words)
    assert line.startswith("step  510/1000  epoch   1.00  loss 1.0000  far 50.00 %")
    assert line.endswith("   123,457 images/s  data wait 100 %  ETA 0:29:24")
    assert progress.line(1000, scalars, words).endswith("ETA 0:00:00")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.4, "0:00:59"),
        (59.6, "0:01:00"),
        (3599.9, "1:00:00"),
        (3661, "1:01:01"),
        (360_000, "100:00:00"),
    ],
)
def test_duration(seconds, text):
    assert reporting.duration(seconds) == text
