"""Saves checkpoints of a training run in the background and checks them when read.

A checkpoint is `<directory>/<step>` as Orbax writes it: item `state` (the pytree, as
host arrays, so that it does not depend on the number of devices or processes) and item
`meta` (JSON: the caller's value, the metrics, and dtype, shape and CRC-32 of every
leaf). Nothing else notices a flipped bit; the checksums here catch it.
experiment/checkpoint_writer.py writes with Orbax. Reading needs TensorStore alone.

Reading never writes, so evaluation works on a read-only directory and while training
runs. Only `save` removes what a killed run left (`*.orbax-checkpoint-tmp`) and renames
what `restore` found damaged to `damaged-<step>`. A checkpoint whose record cannot be
read may be the best one, so `save` never deletes it.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import re
import shutil
import zlib

import jax
import numpy as np
from absl import logging
from flax import traverse_util
from jax.experimental import multihost_utils

from errors import UserError
from experiment import peers


class CheckpointError(UserError):
    """A checkpoint could not be written or read; the message says what to do."""


class IncompatibleCheckpoint(UserError):
    """The checkpoint is sound but belongs to another model or optimizer."""


class Checkpoints:
    """The checkpoints of one run; keeps the newest `keep_last` and best `keep_best`.

    In a multi-process run every process makes the same calls; the directory is shared.
    """

    def __init__(self, directory, *, keep_last=3, keep_best=1, best_metric="error"):
        if keep_last < 1 or keep_best < 0:
            raise ValueError(
                f"need keep_last >= 1 and keep_best >= 0, got {keep_last}, {keep_best}"
            )
        self._directory = pathlib.Path(directory).absolute()
        self._ranking = _Ranking(best_metric, keep_last, keep_best)
        self._manager = None  # the writer, made by the first save, in process 0 only
        self._ready = False  # the directory is clear and process 0 has the manager
        self._saving = None  # the step that is being written, if any
        self._damaged = {}  # step -> reason, found by restore
        for step in self._steps_on_disk():
            self._ranking.read(step, self._path(step))

    def save(self, step, state, metrics=None, meta=None):
        """Starts to save `state`; its buffers may be donated as soon as this returns.

        A checkpoint without `metrics` (a dict of floats that holds `best_metric`) is
        never the best one. `meta` is any JSON value. A step that already exists is left
        as it is, but gets the metrics if it has none: of an evaluation that a stop cut
        short.

        Raises CheckpointError if this save fails, or another process has made a later
        one. If the save before it failed, this one is waited for, and a warning says
        which is missing.
        """
        from experiment import checkpoint_writer

        missing = ""
        try:
            self.wait()
        except CheckpointError as error:
            missing = str(error).partition(";")[0]
        step, steps = int(step), self.all_steps()
        if step not in steps and step < max(steps, default=0):
            raise CheckpointError(
                f"step {step} is not saved beside checkpoint {steps[-1]} in "
                f"{self._directory}: another process has gone on with the run"
            )
        self._open()
        if metrics:
            metrics = {k: float(v) for k, v in metrics.items()}
            metrics[self._ranking.metric]  # a KeyError now, not a run without a best
        host = jax.tree.map(_to_host, state)
        record = _record(host, metrics, meta)
        again = step in steps
        if not again or (metrics and self._ranking.metrics.get(step, metrics) is None):
            self._ranking.metrics[step] = record["metrics"]
        else:
            metrics = None
        with self._reporting(step):
            if jax.process_index() == 0 and again and metrics:
                _add_metrics(self._path(step), metrics)
            elif jax.process_index() == 0 and step not in self._manager.all_steps():
                checkpoint_writer.save(self._manager, step, host, record)
        self._saving = step
        if missing:
            self.wait()
            if jax.process_index() == 0:
                logging.warning("%s, but checkpoint %d is written", missing, step)

    def restore(self, abstract_state=None, step=None, best=False, parts=None):
        """Returns (state, step, meta) of the newest good checkpoint, or None.

        With `best` it is the good one with the best metric, or the newest if none has
        a metric, which is said in a warning.

        `abstract_state` is a pytree of ShapeDtypeStructs whose shardings say where the
        arrays go. Without it the state is nested dicts of numpy arrays, for callers
        that build no optimizer; what holds no array is left out. `parts` names the
        entries of the state that these callers need; others are not read.
        A damaged checkpoint is skipped with a warning; with `step` it is an error, as
        is one that only some processes see.
        Raises IncompatibleCheckpoint if names, shapes or dtypes differ from those of
        `abstract_state`, CheckpointError if checkpoints exist and all are damaged.
        """
        self.wait()
        damaged = {}
        while (found := self._next_candidate(step, best, damaged)) is not None:
            peers.check_shared(self._path(found))
            loaded, error = None, None
            try:
                loaded = _load(self._path(found), abstract_state, parts)
            except Exception as e:  # a damaged file raises anything
                error = e
            reason = _agreed_damage(error)
            if reason is None and error is not None:
                raise error
            if reason is None:
                self._report(damaged, found)
                if best and jax.process_index() == 0:
                    self._ranking.warn_of_choice(found, self._damaged)
                return loaded[0], found, loaded[1]
            if step is not None:
                raise CheckpointError(
                    f"checkpoint {step} in {self._directory} is damaged ({reason})"
                )
            damaged[found] = reason
        if damaged:
            reasons = "; ".join(f"{k}: {v}" for k, v in damaged.items())
            raise CheckpointError(
                f"all checkpoints in {self._directory} are damaged ({reasons}); "
                "nothing was changed: bring back a copy, or move the directory away to "
                "start again from step 0"
            )
        return None

    def exist(self):
        """True if there is a checkpoint, good or damaged, as process 0 sees it."""
        return self._next_candidate(None, False, {}) is not None

    def all_steps(self):
        """Finished steps in order, except those that restore found damaged."""
        return [s for s in self._steps_on_disk() if s not in self._damaged]

    def wait(self):
        """Blocks until the last save is on disk; if it failed, CheckpointError."""
        if self._saving is not None:
            step, self._saving = self._saving, None
            with self._reporting(step):
                if jax.process_index() == 0:
                    self._manager.wait_until_finished()
                    path = self._path(step)
                    if path.is_dir() and not (path / "state/manifest.ocdbt").exists():
                        self._damaged[step] = "it has no index"
                        raise OSError(errno.EIO, "Orbax wrote it without its index")

    def close(self):
        """Waits, frees the writer's threads, and raises CheckpointError like `wait`."""
        self.wait()
        self._release()

    def reached_preemption(self, step):
        """True at the step that all processes agreed on after one was told to stop.

        It is always False in a run of one process without jax.distributed.
        """
        with contextlib.suppress(RuntimeError):  # JAX's preemption service is off
            return multihost_utils.reached_preemption_sync_point(step)
        return False

    # Writing.

    def _open(self):
        """Clears the directory and makes the manager, unless that is done already.

        Only process 0 writes: it has the whole state on its host, and Orbax's own
        barriers leave the other processes waiting for 20 minutes when a write fails.
        """
        from experiment import checkpoint_writer

        if self._ready and not self._damaged:
            return
        self._release()
        with self._reporting():
            if jax.process_index() == 0:
                self._directory.mkdir(parents=True, exist_ok=True)
                _remove_unfinished(self._directory)
                for step in self._damaged:
                    _set_aside(self._path(step))
                self._ranking.warn("so it is kept until you remove it", self._damaged)
                self._ranking.unreadable = {}  # once is enough
                self._manager = checkpoint_writer.open_manager(
                    self._directory, self._ranking.kept
                )
        self._damaged = {}
        self._ready = True

    def _release(self):
        manager, self._manager, self._ready = self._manager, None, False
        if manager is not None:
            manager.close()

    @contextlib.contextmanager
    def _reporting(self, step=None):
        """Turns an error of process 0 into CheckpointError in every process.

        It removes what the failed save left, so that another save can be tried.
        """
        error = None
        try:
            yield
        except Exception as e:
            error = e
        if not _any_process(error is not None):
            return
        with contextlib.suppress(Exception):
            self._release()  # reports the same error again
        with contextlib.suppress(OSError):
            if jax.process_index() == 0:
                _remove_unfinished(self._directory)  # it may be what fills the disk
        self._ranking.metrics.pop(step, None)
        steps = self.all_steps()
        raise CheckpointError(
            f"cannot write checkpoint{'' if step is None else f' {step}'} to "
            f"{self._directory}: {_os_reason(error)}; make room or make it writable "
            "and start the same command again: it goes on from "
            f"{f'step {steps[-1]}' if steps else 'the beginning'}"
        ) from error

    # Reading.

    def _path(self, step):
        return self._directory / str(step)

    def _steps_on_disk(self):
        if not self._directory.is_dir():
            return []
        names = (p.name for p in self._directory.iterdir() if p.is_dir())
        return sorted(int(n) for n in names if n.isdecimal())

    def _next_candidate(self, step, best, damaged):
        """The step to try next, as process 0 sees the directory; None at the end."""
        steps = [s for s in self._steps_on_disk() if s not in damaged]
        if step is not None and step not in steps:
            raise CheckpointError(
                f"no checkpoint {step} in {self._directory}, it has {steps}"
            )
        ranked = self._ranking.ranked(steps) if best else []
        found = step if step is not None else [*ranked, *reversed(steps), -1][0]
        if jax.process_count() > 1:
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        return None if found < 0 else found

    def _report(self, damaged, good):
        """Warns once per damaged checkpoint and remembers it for the next save."""
        for step, reason in damaged.items():
            if jax.process_index() == 0 and step not in self._damaged:
                logging.warning(
                    "checkpoint %d in %s is damaged (%s): going on from checkpoint %d; "
                    "the next save renames it to damaged-%d",
                    step,
                    self._directory,
                    reason,
                    good,
                    step,
                )
        self._damaged.update(damaged)


@dataclasses.dataclass
class _Ranking:
    """Ranks the steps by the metrics they were saved with, and says which are kept."""

    metric: str  # the smallest is the best
    keep_last: int
    keep_best: int
    metrics: dict = dataclasses.field(default_factory=dict)  # step -> metrics or None
    unreadable: dict = dataclasses.field(default_factory=dict)  # step -> (path, reason)

    def read(self, step, path):
        try:
            self.metrics[step] = _read_record(path)["metrics"]
        except Exception as e:  # damaged JSON raises anything
            self.unreadable[step] = path, _in_words(e)

    def ranked(self, steps):
        """The `steps` with a finite metric, best first; of equals the newest first."""
        score = {
            s: self.metrics[s][self.metric]
            for s in steps
            if self.metrics.get(s) and self.metric in self.metrics[s]
        }
        finite = [s for s in score if np.isfinite(score[s])]
        return sorted(finite, key=lambda s: (score[s], -s))

    def kept(self, steps):
        """The newest, the best, and those of which it is not known what they are."""
        known = sorted(s for s in steps if s in self.metrics)
        unknown = [s for s in steps if s not in self.metrics]
        best = self.ranked(known)[: self.keep_best]
        return {*known[-self.keep_last :], *best, *unknown}

    def warn_of_choice(self, step, damaged):
        """Warns if it is not certain that `step` is the best one."""
        if not self.ranked([step]):
            logging.warning(
                "no good checkpoint was saved with an evaluation: taking checkpoint "
                "%d, the newest",
                step,
            )
        self.warn(f"but checkpoint {step} is taken", damaged)

    def warn(self, consequence, damaged):
        """Warns of each step of unknown rank, except those told as `damaged`."""
        for step, (path, reason) in self.unreadable.items():
            if step not in damaged and path.exists():
                logging.warning(
                    "the record of checkpoint %s cannot be read (%s): it may be the "
                    "best one, %s",
                    path,
                    reason,
                    consequence,
                )


def _remove_unfinished(directory):
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path)


def _set_aside(path):
    """Renames the checkpoint `path` to damaged-<step>."""
    target = path.with_name(f"damaged-{path.name}")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"damaged-{path.name}-{count}")
    os.rename(path, target)


def _record(host, metrics, meta):
    """Makes a checkpoint's own record, as `_read_record` returns it, and its CRC."""
    leaves = {name: _describe(leaf) for name, leaf in _named_leaves(host).items()}
    record = {"meta": meta, "metrics": metrics or None, "leaves": leaves}
    record = json.loads(json.dumps(record))
    return record | {"crc32": _json_crc(record)}


def _read_record(path):
    """Reads a checkpoint's own record: meta, metrics, and the forms of its leaves."""
    record = json.loads((path / "meta" / "metadata").read_bytes())
    if record.pop("crc32") != _json_crc(record):
        raise ValueError("checksum mismatch in meta")
    return record


def _add_metrics(path, metrics):
    """Adds metrics to a checkpoint's record; a kill leaves the old or the new one."""
    record = {**_read_record(path), "metrics": metrics}
    file = path / "meta" / "metadata"
    new = path / "meta" / "metadata.tmp"
    with open(new, "w") as opened:
        opened.write(json.dumps({**record, "crc32": _json_crc(record)}))
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)


def _load(path, abstract_state, parts):
    """Loads (state, meta) from the checkpoint directory `path`; checks every leaf."""
    if not path.is_dir():
        raise FileNotFoundError(f"no directory {path}")
    record = _read_record(path)
    if abstract_state is not None:
        saved = {name: tuple(leaf[:2]) for name, leaf in record["leaves"].items()}
        refuse_another_model(path, saved, forms(abstract_state))
    recorded = record["leaves"]
    if parts is not None:
        recorded = {n: v for n, v in recorded.items() if n.split("/")[0] in parts}
    leaves = _read_arrays(path / "state", recorded)
    bad = sorted(n for n, leaf in leaves.items() if _describe(leaf) != recorded[n])
    if bad:
        raise ValueError(f"checksum mismatch in {', '.join(bad[:3])}")
    if abstract_state is None:
        return traverse_util.unflatten_dict(leaves, sep="/"), record["meta"]
    wanted = _named_leaves(abstract_state).items()
    placed = [_place(leaves[name], like) for name, like in wanted]
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), placed)
    return state, record["meta"]


def _read_arrays(folder, names):
    """Reads {name: numpy array} from the OCDBT database that Orbax wrote, all at once.

    Orbax keeps the leaf "params/C1/kernel" as the Zarr array "params.C1.kernel".
    """
    import tensorstore

    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    context = tensorstore.Context()

    def opened(name):
        store = {**database, "path": f"{name.replace('/', '.')}/"}
        spec = {"driver": "zarr", "kvstore": store}
        return tensorstore.open(spec, context=context, open=True, read=True)

    arrays = {name: opened(name) for name in names}
    reads = {name: array.result().read() for name, array in arrays.items()}
    return {name: read.result() for name, read in reads.items()}


def _to_host(leaf):
    """Copies to host memory; on a CPU np.asarray would only view the buffer."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if not leaf.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        leaf = leaf.addressable_data(0)
    return np.array(leaf)


def _place(value, like):
    if getattr(like, "sharding", None) is None:
        return jax.device_put(value)
    return jax.make_array_from_callback(value.shape, like.sharding, value.__getitem__)


def _named_leaves(tree):
    """{"params/C1/kernel": leaf}, the same for a dataclass as for nested dicts."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in paths}


def _describe(array):
    """[dtype, shape, CRC-32 of the bytes], in the types that JSON gives back."""
    crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return [str(array.dtype), list(array.shape), crc]


def _json_crc(record):
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def forms(tree):
    """{"params/C1/kernel": (dtype, shape)} of the leaves, for refuse_another_model."""
    return {
        name: (str(leaf.dtype), list(leaf.shape))
        for name, leaf in _named_leaves(tree).items()
    }


def refuse_another_model(path, saved, model):
    """Raises IncompatibleCheckpoint with a line for each leaf that differs.

    `saved` has the `forms` of what `path` holds, `model` of what is wanted.
    """

    def show(dtype, shape, other):
        same = other is not None and other[0] == dtype
        return f"{tuple(shape)}" if same else f"{dtype} {tuple(shape)}"

    lines = []
    for name in {**model, **saved}:
        a, b = saved.get(name), model.get(name)
        if a != b:
            a_text = show(*a, b) if a else "none"
            b_text = show(*b, a) if b else "none"
            lines.append(f"  {name}: checkpoint {a_text}, model {b_text}")
    if lines:
        raise IncompatibleCheckpoint(
            f"checkpoint {path} does not fit this model ({len(lines)} leaves differ):\n"
            + "\n".join(lines)
        )


def _agreed_damage(error):
    """Says why a checkpoint counts as damaged; None if no process found it so.

    One process that cannot read it is enough: all must continue from the same step.
    """
    damaged = error is not None and not isinstance(error, IncompatibleCheckpoint)
    if not _any_process(damaged):
        return None
    if not damaged:
        return "another process could not read it"
    return _in_words(error)


def _in_words(error):
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _any_process(flag):
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def _os_reason(error):
    """The system's reason; TensorStore hides it in the text of a ValueError."""
    if error is None:
        return "process 0 failed and says why"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else f"{type(error).__name__}: {error}"
