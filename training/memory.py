"""Device memory of a compiled step: its plan, the limit, and the batch that fits."""

import contextlib
import ctypes
import dataclasses
import itertools
import math
import pathlib
import re

import jax

from errors import UserError, foreign
from kernels import ops

GIB = 2**30
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "TiB": 2**40}


class OutOfMemory(UserError):
    """A program needs more memory than a device has; the message says what fits."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes that a compiled training step takes on each device."""

    parameters: int  # with batch statistics and the Polyak average
    optimizer: int
    data: int  # the batch, or the whole split if it lies on the device
    scratch: int  # activations, gradients and everything else that is computed

    @property
    def total(self):
        return self.parameters + self.optimizer + self.data + self.scratch

    def __str__(self):
        parts = ", ".join(
            f"{name} {written(value)}"
            for name, value in (
                ("parameters", self.parameters),
                ("optimizer", self.optimizer),
                ("data", self.data),
                ("activations and scratch", self.scratch),
            )
        )
        return f"{written(self.total)} ({parts})"


def plan(compiled, state, data):
    """Returns the `Plan` of a compiled (state, sums, data, ...) -> (state, sums).

    `state` is a train_step.TrainState; it and `data` hold arrays or shapes with
    shardings. The few bytes of the sums are ignored.
    """
    kept = (state.params, state.batch_stats, state.ema)
    analysis = compiled.memory_analysis()
    not_donated = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Plan(
        parameters=_bytes_per_device(kept),
        optimizer=_bytes_per_device(state.opt_state),
        data=_bytes_per_device(data),
        scratch=analysis.temp_size_in_bytes + not_donated,
    )


def plan_step(run_steps, mesh, arguments):
    """Compiles a step for `arguments`, (state, sums, data, count, seed); plans it.

    `run_steps` is jitted. A call of it with such arguments does not compile it again.
    """
    state, _, data, _, _ = arguments
    with ops.for_mesh(mesh):
        compiled = run_steps.lower(*arguments).compile()
    give_back()
    return plan(compiled, state, data)


class StepMemory:
    """Plans the memory of a compiled step, and explains the plan if it was too much.

    `run_steps` is jitted: (state, sums, data, count, seed) -> (state, sums). A batch is
    a multiple of the devices times the parts in which it is accumulated.
    """

    def __init__(self, run_steps, mesh, batch_size, accumulate=1):
        self._run_steps, self._mesh = run_steps, mesh
        self._batch_size = batch_size
        self._multiple = mesh.devices.size * accumulate
        self._device = local_device(mesh)
        self._shapes = None

    def expect(self, *arguments):
        """Plans a step with these arguments, which compiles it; returns the report."""
        self._shapes = shapes(arguments)
        return report(self.plan_of(self._batch_size), self._device)

    def plan_of(self, batch_size):
        """Returns the `Plan` of a step for batches of another size."""
        state, sums, data, count, seed = self._shapes
        data = with_batch(data, batch_size)
        arguments = state, sums, data, count, seed
        return plan_step(self._run_steps, self._mesh, arguments)

    def explain(self):
        """Returns the message about a step that a device could not hold."""
        if self._shapes is None:
            return "out of memory before the first step: the state or the data"
        return explain(self.plan_of, self._batch_size, self._multiple, self._device)


def give_back():
    """Gives the system the memory that the C library, if it is glibc, holds unused.

    Compiling leaves much: 1.3 GiB after DenseNet-121's step, beside which the step's
    own memory would be taken.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def local_device(mesh):
    """Returns the first device of a mesh that belongs to this process."""
    mine = jax.process_index()
    return next(d for d in mesh.devices.flat if d.process_index == mine)


def limit(device):
    """Returns (bytes that a program may take on this device, a name for them).

    On a GPU they are JAX's share of the memory (XLA_CLIENT_MEM_FRACTION, 0.75).
    CPU devices share the memory that the system has available now, and each has what
    this process's arrays hold on it, which a plan counts. If the limit is unknown, the
    result is (None, "").
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], f"the {device.device_kind}"
    if device.platform != "cpu":
        return None, ""
    available = _available_bytes()
    if available is None:
        return None, ""
    available //= jax.local_device_count()
    return available + _bytes_per_device(jax.live_arrays()), "available memory"


def report(plan, device):
    """Returns the line about a `Plan`, with a warning if the device has less."""
    bytes_limit, what = limit(device)
    line = f"memory per device: {plan}"
    if bytes_limit is not None:
        line += f" of {written(bytes_limit)} of {what}"
        if plan.total > bytes_limit:
            line += f"\nwarning: this is more than there is; {advice()}"
    return line


def shapes(tree):
    """Turns a tree's arrays into shapes with shardings; keeps other leaves."""

    def shape(x):
        if not isinstance(x, jax.Array):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(shape, tree)


def with_batch(tree, batch_size):
    """Makes those axes of `shapes` that the mesh's "data" shards `batch_size` long."""

    def resize(x):
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        sizes = itertools.zip_longest(x.shape, x.sharding.spec)
        shape = tuple(batch_size if axis == "data" else n for n, axis in sizes)
        return x.update(shape=shape)

    return jax.tree.map(resize, tree)


def fitting_batch(totals, limit, multiple):
    """Returns the largest multiple of `multiple` that fits; 0 if none does.

    It draws a line through `totals`, {batch size: bytes} of two batches; `limit` is in
    bytes.
    """
    (small, low), (large, high) = sorted(totals.items())
    slope = (high - low) / (large - small)
    return max(0, int((limit - low) / slope + small) // multiple * multiple)


def explain_evaluation(batch_size):
    """Returns the message for an evaluation of batches that are too large."""
    return (
        f"out of memory in the evaluation of config.eval.batch_size = {batch_size} "
        "images; a smaller one gives the same result"
    )


@contextlib.contextmanager
def explaining(explain):
    """Turns a device's out-of-memory error within into one that `explain()` words."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not foreign.is_out_of_memory(str(error)):
            raise
        raise OutOfMemory(explain()) from error


def explain(plan_of, batch_size, multiple, device):
    """Returns the message for a step of `batch_size` images that was too large.

    `plan_of(batch_size)` compiles the step for another batch and returns its `Plan`; it
    is called for two smaller ones. Batch sizes are multiples of `multiple`.
    """
    bytes_limit, what = limit(device)
    text = f"out of memory in a step of config.batch_size = {batch_size}"
    batches = sorted({max(batch_size // k // multiple, 1) * multiple for k in (2, 4)})
    if bytes_limit is None or len(batches) < 2 or batches[-1] >= batch_size:
        return f"{text}; {advice()}"
    totals = {b: plan_of(b).total for b in batches}
    small, large = batches
    slope = (totals[large] - totals[small]) / (large - small)
    needed = totals[large] + slope * (batch_size - large)
    fits = fitting_batch(totals, bytes_limit, multiple)
    if fits >= batch_size:
        # Other programs took it meanwhile, or the process has a limit of its own.
        fit = "which could not be allocated"
    else:
        fit = f"{fits or 'no'} images would fit"
    return (
        f"{text}: it needs about {written(needed)} a device, of "
        f"{written(bytes_limit)} of {what}; {fit}; {advice()}"
    )


def advice():
    return (
        "config.model.remat = all keeps fewer activations, and a new run may take "
        "the batch in N parts (config.optimizer.accumulate = N)"
    )


def _bytes_per_device(tree):
    return sum(
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
    )


def _available_bytes(root=pathlib.Path("/")):
    """Returns the bytes that Linux can give without swapping; None if unknown.

    The limits of a container, a SLURM job or a systemd slice cap them. Pages of files
    that one of these has read count as used although they can be dropped, so there may
    be more than this, not less.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        (line,) = [x for x in lines if x.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return None
    return max(0, min([int(line.split()[1]) * 1024, *_left_in_groups(root)]))


def _left_in_groups(root):
    """Yields what is left in each limited control group that this process is in."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if "memory" in kinds.split(","):  # version 1
            top, names = "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not kinds:
            top, names = "", ("memory.max", "memory.current")
        else:
            continue
        group = pathlib.Path(path.strip("/"))
        for part in (group, *group.parents):
            folder = root / "sys/fs/cgroup" / top / part
            # There may be no such file, or no limit: "max".
            with contextlib.suppress(OSError, ValueError):
                limit, used = (int((folder / name).read_text()) for name in names)
                yield limit - used


def parse(text):
    """Returns the bytes that "2GiB", "1.5 GiB", "800MiB" or "1000000" means.

    Raises:
      ValueError: the text is no such size, or is less than one byte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]iB)?", text)
    number = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if number < 1:
        raise ValueError(f"{text!r} is no size such as 2GiB, 800MiB or 1000000")
    return number


def written(number):
    """Writes bytes as "1.90 GiB" or "23.4 MiB"."""
    unit, size = ("GiB", GIB) if number >= GIB else ("MiB", GIB / 1024)
    number /= size
    return f"{number:.{2 if number < 10 else 1}f} {unit}"
