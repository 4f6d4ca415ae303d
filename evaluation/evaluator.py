"""Exact evaluation: every example of a split is counted once, whatever the batch size.

The last batch is padded and carries a mask, and errors are integers that are summed
under it. The number of images counted must be the size of the split.
"""

import dataclasses
import math
import typing
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import data_source
import input_pipeline
from evaluation import scoring
from kernels import ops

ADVICE = (
    "an evaluation leaves nothing out: replace the image (a run does not go on without "
    "it), or count it as an error with config.eval.damaged = 'wrong'"
)


class Interrupted(Exception):
    """The evaluation was asked to stop before its end; it has no result."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    `metrics` are numbers by name; `reported` names those that go to TensorBoard and
    metrics.jsonl; `score` names the one, lower is better, that chooses the best
    checkpoint and drives the plateau schedule.
    """

    split: str
    size: int
    metrics: dict
    score: str = "error"
    reported: tuple = ("error", "loss")

    @property
    def value(self):
        return self.metrics[self.score]

    def scalars(self):
        return {f"eval/{name}": self.metrics[name] for name in self.reported}

    def describe(self, step):
        """Returns the line that ends an evaluation."""
        return describe(self.metrics, self.split, self.size, step)


def describe(metrics, split, size, step):
    """Returns the line about `metrics` of `split`, which holds `size` images."""
    errors = describe_errors(metrics, split, size, step)
    classes = scoring.describe_classes(metrics)
    return f"{errors}; {classes}" if classes else errors


def describe_errors(metrics, split, size, step):
    """Returns what `describe` says of the errors alone."""
    return (
        f"{split} error {metrics['error']:.2f} % ({metrics['errors']} errors, "
        f"{metrics['count']}/{size} images counted) after step {step}"
    )


class Evaluator(typing.Protocol):
    """The interface that training needs from an evaluation, whatever the task."""

    split: data_source.Split

    def run(self, variables, stop=...) -> Result:
        """Evaluates the network; raises Interrupted once `stop()` is true."""


def advised(batches, split):
    """Yields `batches` of a split; the error of an image says how to go on."""
    try:
        yield from batches
    except data_source.DataError as error:
        raise data_source.DataError(f"{split.split}: {error}; {ADVICE}") from error


@dataclasses.dataclass(frozen=True)
class Classification:
    """Counts the errors of a classifier on one view of each image.

    Args:
      step: a jitted `eval_step.make_eval_step`.
      batch_size: images per step over all hosts, which is rounded up to a multiple of
        the devices.
      view: Preprocessing.view for the split's images.
      reading: reader options for eval_batches: num_threads, prefetch and damaged.
    """

    step: Callable
    split: data_source.Split
    batch_size: int
    mesh: Mesh
    view: Callable | None = None
    reading: dict = dataclasses.field(default_factory=dict)

    def run(self, variables, stop=lambda: False):
        """Returns a `Result`: scoring.measures, and the loss per readable image.

        Raises:
          Interrupted: `stop()`, which is called between batches, returned true.
          DataError: an image cannot be read.
        """
        devices = self.mesh.devices.size
        batch_size = min(self.batch_size, len(self.split))
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        pending = []
        batches = input_pipeline.eval_batches(
            self.split,
            math.ceil(batch_size / devices) * devices,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            view=self.view,
            **self.reading,
        )
        for batch in advised(batches, self.split):
            if stop():
                raise Interrupted
            batch = {
                name: input_pipeline.put(batch[name], sharding)
                for name in ("image", "label", "mask")
            }
            with ops.for_mesh(self.mesh):
                pending.append(self.step(variables, batch))
        return self._result([jax.device_get(sums) for sums in pending])

    def _result(self, sums):
        kinds = {"loss": np.float64}
        total = {
            name: sum(s[name].astype(kinds.get(name, np.int64)) for s in sums)
            for name in sums[0]
        }
        count, size = int(total["count"]), len(self.split)
        if count != size:
            raise AssertionError(
                f"{count} images counted of {size} in {self.split.name}"
            )
        metrics = scoring.measures(
            *(total[name] for name in ("images", "hits", "answers")),
            int(total["errors"]),
            int(total["top5_errors"]),
            count,
        )
        read = int(total["read"])
        metrics["loss"] = float(total["loss"]) / read if read else math.nan
        reported = "error", "top5_error", "balanced_error", "macro_f1", "loss"
        reported = tuple(name for name in reported if name in metrics)
        return Result(self.split.split, size, metrics, reported=reported)
