"""Looks into the networks of runs: the gradients of their layers, and their maps."""

import flax
import jax
import jax.numpy as jnp
import numpy as np

import input_pipeline
from analysis import stages
from experiment import build, image_statistics, tasks, trained

IMAGES = 256  # of the training split, for a gradient


def gradients(run, start=False):
    """The gradient of each layer's weights, relative to these weights.

    Args:
      run: a trainings.Trained.
      start: whether the weights are those before the first step, or after the last.

    Returns:
      {path of a kernel: the gradient's norm / the kernel's norm}, sorted by path. The
      gradient is that of the mean loss over the first 256 training images, which is
      computed and augmented as in training.
    """
    setup = image_statistics.find(tasks.setup(run.config), run.workdir)
    if start:
        state = jax.jit(setup.init())(run.config.seed)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
    else:
        shape = setup.input_shape
        variables, _ = trained.load_variables(run.workdir, setup.model, shape)
    index = np.arange(min(IMAGES, len(setup.train_split)))
    batch = _read(setup.train_split, index, setup.eval_preprocessing)
    batch |= {"index": index, "epoch": np.zeros_like(index)}
    objective = setup.objective()

    @jax.jit
    def relative(variables, batch, seed):
        def loss(params):
            now, key = {**variables, "params": params}, jax.random.key(0)
            return objective(now, batch, seed, key)[0].mean()

        params = variables["params"]
        return jax.tree.map(_ratio, jax.grad(loss)(params), params)

    found = relative(variables, batch, run.config.seed)
    flat = flax.traverse_util.flatten_dict(found, sep="/")
    return {p: float(x) for p, x in sorted(flat.items()) if p.endswith("/kernel")}


def _ratio(gradient, weights):
    return jnp.linalg.norm(gradient.ravel()) / jnp.linalg.norm(weights.ravel())


def maps(run, stage, count=1000):
    """A stage's output in evaluation, [count, h, w, C], of the first test images."""
    opened = trained.open_run(run.workdir)
    dataset = run.config.dataset
    split = build.open_split(dataset, dataset.eval_split)
    index = np.arange(min(count, len(split)))
    images = _read(split, index, opened.preprocessing)["image"]
    place = list(stages.layout(opened.model, opened.input_shape).stages).index(stage)

    def outputs(variables):
        inputs = opened.inputs(images)
        return stages.forward(opened.model, variables, inputs).stages[place]

    return np.asarray(jax.jit(outputs)(opened.variables))


def _read(split, index, preprocessing):
    view = preprocessing.view(split.image_shape)
    return input_pipeline.read_examples(split, index, view)
