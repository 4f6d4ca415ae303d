"""Writes checkpoints with Orbax.

experiment/checkpoints.py, which says what a checkpoint is and reads it, imports this
when the first one is saved: Orbax's import takes a tenth of a program's start.
"""

import asyncio
import dataclasses
from collections.abc import Callable

import numpy as np
import orbax.checkpoint as ocp
from absl import logging

# Process 0 writes without waiting for the others.
_ALONE = ocp.options.MultiprocessingOptions(
    primary_host=0, active_processes={0}, barrier_sync_key_prefix="checkpoints"
)
# The errors of checkpoints.py say what matters; Orbax logs the same in 200 lines.
logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)


def open_manager(directory, kept):
    """Makes the ocp.CheckpointManager that writes the checkpoints of `directory`.

    `kept`, a function, chooses from a list of steps those to keep.
    """
    manager = ocp.CheckpointManager(
        directory,
        item_handlers={
            "state": _tree_handler(),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=_ALONE),
        },
        options=ocp.CheckpointManagerOptions(
            create=False,
            save_root_metadata=False,
            preservation_policy=_Preserve(kept),
            multiprocessing_options=_ALONE,
            # In the background, failing to make a directory leaves threads that keep
            # the process from ending for ten minutes.
            async_options=ocp.options.AsyncOptions(
                create_directories_asynchronously=False
            ),
        ),
    )
    # Asked for a step, in process 0 alone, JAX would take it for the number by which
    # stopping.Stop has the processes agree on a stop.
    manager.reached_preemption = lambda step: False
    return manager


def save(manager, step, state, record):
    """Starts to save a pytree of numpy arrays and a JSON value, in the background."""
    args = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(record)
    )
    manager.save(step, args=args, force=True)


def _tree_handler():
    arrays = _ArrayHandler(deepcopy_host_arrays=False)  # the caller has copied them
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, arrays))
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=registry, multiprocessing_options=_ALONE
    )


class _ArrayHandler(ocp.type_handlers.NumpyHandler):
    """Lets every write end before it raises the first error.

    Otherwise those that are still running report to a closed event loop, each with a
    traceback that nobody can catch.
    """

    async def _background_serialize(self, values, infos, args=None):
        write = super()._background_serialize
        each = zip(values, infos, args, strict=True)
        writes = [write([v], [info], [arg]) for v, info, arg in each]
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


@dataclasses.dataclass
class _Preserve:
    """An Orbax PreservationPolicy: `kept` chooses which existing steps to keep.

    Orbax's LatestN and BestN are not used: with them the manager reads every step's
    metrics file when it starts, and one damaged file is an error.
    """

    kept: Callable

    def should_preserve(self, checkpoints, *, context):
        kept = self.kept([c.step for c in checkpoints])
        return [c.step in kept for c in checkpoints]
