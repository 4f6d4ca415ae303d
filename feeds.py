"""How batches reach the devices: data that lies there, or host threads that send it."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import input_pipeline


class DeviceFeed:
    """The whole split lies on every device; only indices travel, for many steps."""

    def __init__(self, split, plan, mesh, steps):
        replicated = NamedSharding(mesh, PartitionSpec())
        self._plan, self.steps = plan, steps
        self._columns = NamedSharding(mesh, PartitionSpec(None, "data"))
        self._local = input_pipeline.process_slice(
            plan.batch_size, jax.process_index(), jax.process_count()
        )
        self._arrays = tuple(put(x, replicated) for x in split.arrays())

    def take(self, step, stop):
        """(data for make_run_steps, number of steps) from `step` to at most `stop`."""
        count = min(self.steps, stop - step)
        places = self._plan.indices(step, step + count)
        padding = ((0, self.steps - count), (0, 0))
        places = [np.pad(p[:, self._local], padding) for p in places]
        index, epoch = (put(p, self._columns) for p in places)
        return (*self._arrays, index, epoch), count

    @staticmethod
    def fetch(data, i):
        images, labels, index, epoch = data
        return input_pipeline.device_batch(images, labels, index[i], epoch[i])

    def close(self):
        pass


class HostFeed:
    """Batches are read, decoded and sent by host threads, one step at a time.

    `reading` are further arguments of input_pipeline.train_batches.
    """

    steps = 1

    def __init__(self, split, plan, mesh, first, last, **reading):
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._batches = input_pipeline.train_batches(
            split,
            plan,
            first,
            last,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **reading,
        )

    def take(self, step, stop):
        del step, stop
        batch = next(self._batches)
        names = ("image", "label", "index", "epoch")
        return {name: put(batch[name], self._sharding) for name in names}, 1

    @staticmethod
    def fetch(data, i):
        del i
        return data

    def close(self):
        self._batches.close()


def put(local, sharding):
    """A global array of which this process holds `local`."""
    return jax.make_array_from_process_local_data(sharding, local)
