"""Reports on a run: metrics.jsonl, TensorBoard, and progress lines.

`MetricWriter` stands for one of clu.metric_writers, which would import TensorFlow (4 to
12 s of start-up); tensorboardX writes the same event files without it.
"""

import json
import sys
import time
from concurrent import futures

import jax
import numpy as np

# If torch is installed, tensorboardX imports it (0.8 to 5 s) for a writer that is not
# used here. With None in its place the import fails, which tensorboardX expects.
hidden = "torch" not in sys.modules
sys.modules.setdefault("torch", None)
from tensorboardX import summary  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402

if hidden:
    del sys.modules["torch"]


class MetricWriter:
    """Writes scalars to `<directory>/metrics.jsonl` and to TensorBoard's files there.

    A run that resumes from `first_step` drops the lines of later steps, which it will
    write again. If `enabled` is false (all processes but the first), it writes nothing;
    if `scalars` is false, only TensorBoard's files.
    """

    def __init__(
        self, directory, *, first_step=0, tensorboard=True, enabled=True, scalars=True
    ):
        self._file = self._board = None
        if not enabled:
            return
        if scalars:
            self._continue(directory, first_step)
        if tensorboard:
            # Not SummaryWriter: its thread dies on a full disk, and close() then waits
            # for it forever.
            from tensorboardX.event_file_writer import EventsWriter

            self._board = EventsWriter(str(directory / "events"))
            self._board.write_event(
                Event(
                    wall_time=time.time(),
                    step=first_step + 1,  # drops what earlier starts wrote for it
                    session_log=SessionLog(status=SessionLog.START),
                )
            )

    def _continue(self, directory, first_step):
        path = directory / "metrics.jsonl"
        lines = []
        if path.exists():
            with open(path, errors="replace") as file:
                lines = [line for line in file if _step(line) <= first_step]
        new = path.with_suffix(".tmp")
        new.write_text("".join(lines))
        new.replace(path)
        self._file = open(path, "a")  # noqa: SIM115  (closed in close())

    def write_scalars(self, step, scalars):
        if self._file is None:
            return
        values = {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": int(step), **values}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                self._write(step, summary.scalar(name, value))
            self._board.flush()

    def write_images(self, step, images):
        """Writes images {tag: uint8 [H, W, C]}, to TensorBoard only."""
        if self._board:
            for name, value in images.items():
                value = np.asarray(value)
                self._write(step, summary.image(name, value, dataformats="HWC"))

    def _write(self, step, content):
        event = Event(wall_time=time.time(), step=int(step), summary=content)
        self._board.write_event(event)

    def close(self):
        try:
            if self._file:
                self._file.close()
        finally:
            if self._board:
                self._board.close()


def _step(line):
    """The step of a line of metrics.jsonl; infinite if a kill cut the line short."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Progress:
    """Counts images, seconds, and the seconds spent waiting for data.

    The host sends steps to the device ahead of it, and how far ahead changes around an
    evaluation. So `when_ready` has a thread note when the device was at a report's end.
    """

    def __init__(self, step, total_steps, batch_size, num_examples):
        self._total = total_steps
        self._batch_size = batch_size
        self._epoch_steps = num_examples / batch_size
        self._start = self._last = (step, time.perf_counter())
        self._waited = 0.0
        self._watch = futures.ThreadPoolExecutor(1)

    def when_ready(self, arrays):
        """Returns a future: the time at which the device has computed `arrays`."""

        def wait():
            jax.block_until_ready(arrays)
            return time.perf_counter()

        return self._watch.submit(wait)

    def waiting(self, seconds):
        """Adds `seconds` to the time spent waiting for data."""
        self._waited += seconds

    def exclude(self, seconds):
        """Leaves out `seconds`, which were not spent on training."""
        step, start = self._last
        self._last = (step, start + seconds)

    def report(self, step, now=None):
        """Images and rates since the last report; `now` is when `step` ended."""
        now = time.perf_counter() if now is None else now
        before, then = self._last
        self._last = (step, now)
        seconds = max(now - then, 1e-9)
        waited, self._waited = self._waited, 0.0
        images = (step - before) * self._batch_size
        return {
            "progress/images": images,
            "progress/epoch": step / self._epoch_steps,
            "progress/images_per_second": images / seconds,
            "progress/data_wait": min(waited / seconds, 1.0),
        }

    def line(self, step, scalars, words):
        """A progress line: where the run is, how fast, and when it will end.

        `words` say what the objective counts, such as "error  3.12 %".
        """
        done, start = self._start
        seconds = time.perf_counter() - start
        left = (self._total - step) * seconds / max(step - done, 1)
        return (
            f"step {step:>{len(str(self._total))}}/{self._total}"
            f"  epoch {scalars['progress/epoch']:6.2f}"
            f"  loss {scalars['train/loss']:.4f}"
            f"  {words}"
            f"  {scalars['progress/images_per_second']:>8,.0f} images/s"
            f"  data wait {100 * scalars['progress/data_wait']:3.0f} %"
            f"  ETA {duration(left)}"
        )


def duration(seconds):
    """Formats seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
