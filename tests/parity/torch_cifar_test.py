"""The training in PyTorch that benchmarks/time_to_accuracy.py runs is our recipe."""

import jax
import numpy as np
import pytest
import tiny_datasets
from parity.port import torch

import weights
from benchmarks import torch_cifar
from configs import cifar10
from experiment import build, checks, image_statistics

STEPS = 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 32, 32, 3), np.uint8), np.arange(64) % 10


@pytest.fixture
def config():
    """Two epochs of four steps, of which two are the warm-up, without augmentation.

    A larger rate would enlarge rounding step by step; a larger decay shows.
    """
    config = cifar10.get_config("resnet20")
    config.batch_size, config.num_epochs, config.num_devices = 16, 2.0, 1
    config.schedule.warmup_epochs = 0.5
    config.augment.crop, config.augment.flip = 0, False
    config.optimizer.learning_rate, config.optimizer.weight_decay = 1e-3, 0.5
    checks.check(config)
    return config


def test_steps_from_the_same_weights_give_the_same_weights(tmp_path, data, config):
    images, labels = data
    names = [str(digit) for digit in range(10)]
    tiny_datasets.prepare(
        *(tmp_path, images, labels), name="cifar10", names=names, test=data
    )
    config.dataset.data_dir = str(tmp_path)
    setup = image_statistics.fitted(build.setup(config))
    state = jax.jit(setup.init())(0)
    torch.manual_seed(0)
    training = torch_cifar.Training(config, images, labels.astype(np.int32))
    assert training.total == setup.durations.total == 8
    before = foreign(state)
    training.network.load_state_dict(before)

    step, losses = jax.jit(setup.train_step()), []
    for indices in list(training.batches())[:STEPS]:
        index = indices.numpy()
        batch = {"image": images[index], "label": labels[index].astype(np.int32)}
        batch |= {"index": index.astype(np.int32), "epoch": np.zeros(16, np.int32)}
        state, sums = step(state, batch, 0)
        losses.append((float(sums["loss"]) / 16, float(training.step(indices))))
    mine, theirs = np.transpose(losses)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    for name, mine in foreign(state).items():
        if "running_var" in name or "num_batches" in name:
            continue  # torch's variance is that of a sample
        theirs = training.network.state_dict()[name]
        moved = (mine - before[name]).norm()
        assert moved > 1e-5, name
        # A rectifier passes or not where rounding decides whether its input is above 0:
        # some per cent of a small array.
        assert (mine - theirs).norm() < 0.05 * moved, name


def foreign(state):
    """The weights and statistics of a state by torch's names."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    found = weights.to_foreign("resnet20", jax.tree.map(np.asarray, variables))
    return {name: torch.from_numpy(np.array(a)) for name, a in found.items()}


def test_the_rate_is_that_of_our_schedule(config):
    config.num_epochs, config.schedule.warmup_epochs = 20.0, 1.0
    schedule, _ = build.make_optimizer(config, 390.625, 7812)
    for step in (0, 1, 200, 390, 391, 392, 5000, 7811):
        mine = float(schedule(step)) / config.optimizer.learning_rate
        theirs = torch_cifar.rate_at(step, 391, 7812)
        assert theirs == pytest.approx(mine, abs=1e-6), step


def test_initial_weights_have_the_deviation_of_ours(config):
    network = torch_cifar.torch_networks.create("resnet20")
    torch.manual_seed(0)
    torch_cifar.initialize(network)
    model = build.make_model(config, 10)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), train=False)
    mine = weights.to_foreign("resnet20", jax.tree.map(np.asarray, variables))
    for name, tensor in network.state_dict().items():
        if name.endswith("weight") and tensor.ndim > 1:
            # 432 to 36,864 draws, so within 10 %; none is beyond two deviations.
            assert tensor.std().item() == pytest.approx(mine[name].std(), rel=0.1)
            assert abs(tensor).max() < 2.4 * tensor.std()


def test_each_image_is_flipped_and_shifted_by_itself():
    images = torch.arange(1, 6 * 3 * 5 * 4 + 1).float().reshape(6, 3, 5, 4)
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        for got, image in zip(torch_cifar.augment(images, 2), images, strict=True):
            found = [
                (flip, row, column)
                for flip in (False, True)
                for row in range(5)
                for column in range(5)
                if torch.equal(got, shifted(image, flip, row, column))
            ]
            assert len(found) == 1
            seen |= set(found)
    assert len(seen) > 40  # of 50, in 120 draws


def shifted(image, flip, row, column):
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 4, width + 4)
    padded[:, 2:-2, 2:-2] = image.flip(2) if flip else image
    return padded[:, row : row + height, column : column + width]


def test_an_epoch_has_every_image_once_and_the_error_is_counted(data, config):
    images, labels = data
    training = torch_cifar.Training(config, images, labels)
    order = torch.cat(list(training.batches())).reshape(2, 64)
    for epoch in order:
        assert sorted(epoch.tolist()) == list(range(64))
    assert not torch.equal(*order)
    said = []
    torch_cifar.train(training, images[:30], labels[:30], said.append)
    assert len(said) == 2  # after each epoch
    wrong = training.errors(images[:30], labels[:30], batch_size=7)
    assert f"({wrong} errors, 30/30 images counted) after step 8" in said[-1]
