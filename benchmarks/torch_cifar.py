"""Trains a network of configs/cifar10.py in PyTorch, as that recipe says.

    python -m benchmarks.torch_cifar --network=resnet20 --epochs=28 --data_dir=DIR

benchmarks/time_to_accuracy.py runs it beside main.py. Network, initialisation, batch,
optimizer, schedule, augmentation and normalisation are the recipe's; the order of the
images is PyTorch's. The images lie in memory as one array, a batch is augmented at
once, and networks and batches are in channels_last. The whole test split is evaluated
after each epoch and at the end, as main.py does, in the words of main.py.
"""

from kernels import huge_pages, processor

if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does, before the imports

import argparse  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional  # noqa: E402

import data_source  # noqa: E402
from benchmarks import torch_networks  # noqa: E402
from configs import cifar10  # noqa: E402

# The deviation of a normal distribution that is cut off at two deviations.
TRUNCATED = 0.87962566103423978


def initialize(network):
    """Draws weights as models/resnet.py does: He's for convolutions, then LeCun's.

    Both are normal distributions cut off at two deviations; biases are 0.
    """
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            gain = 2 if isinstance(layer, torch.nn.Conv2d) else 1
            std = (gain / layer.weight[0].numel()) ** 0.5 / TRUNCATED
            torch.nn.init.trunc_normal_(layer.weight, 0, std, -2 * std, 2 * std)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)


def normalizer(images):
    """Returns uint8 [B, H, W, C] -> float32 [B, C, H, W] by the images' statistics."""
    levels = np.arange(256.0)
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)]
    mean = np.array([np.average(levels, weights=n) for n in counts])
    squares = np.array([np.average(levels**2, weights=n) for n in counts])
    mean, std = (
        torch.from_numpy(x).float() for x in (mean, (squares - mean**2) ** 0.5)
    )
    return lambda batch: ((batch - mean) / std).permute(0, 3, 1, 2)


def augment(images, pixels, flip=True):
    """Flips half of the images [B, C, H, W] and shifts each by up to `pixels`.

    Zeros move in.
    """
    if flip:
        mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    if not pixels:
        return images
    height, width = images.shape[2:]
    padded = functional.pad(images, (pixels,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = torch.randint(0, 2 * pixels + 1, (2, len(images)))
    images = windows[torch.arange(len(images)), :, rows, columns]
    return images.contiguous(memory_format=torch.channels_last)


def rate_at(step, warmup, total):
    """The share of the learning rate at a step: it rises linearly, then falls to 0."""
    if step < warmup:
        return step / warmup
    return max(0.0, (total - step) / max(total - warmup, 1))


class Training:
    """A network, its optimizer and schedule, by a config of configs/cifar10.py."""

    def __init__(self, config, images, labels, num_steps=None, compiled=False):
        """Takes the training images uint8 [N, 32, 32, 3] and their labels [N]."""
        self.batch_size, self.config = config.batch_size, config
        self.images = torch.from_numpy(images)
        self.labels = torch.from_numpy(labels).long()
        self.normalize = normalizer(images)
        epoch = len(images) / self.batch_size
        self.total = num_steps or round(config.num_epochs * epoch)
        network = torch_networks.create(config.model.name)
        initialize(network)
        self.network = network.to(memory_format=torch.channels_last)
        optimizer = config.optimizer
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            fused=True,
            **optimizer.kwargs,
        )
        warmup = round(config.schedule.warmup_epochs * epoch)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_at(step, warmup, self.total)
        )
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, images, labels):
        return functional.cross_entropy(self.network(images), labels)

    def batches(self):
        """Yields the indices of each step's images; each epoch has its own order."""
        epochs = -(-self.total * self.batch_size // len(self.images))
        order = torch.cat([torch.randperm(len(self.images)) for _ in range(epochs)])
        yield from order.split(self.batch_size)[: self.total]

    def step(self, indices):
        """Trains on one batch; returns its loss, a tensor."""
        images = self.normalize(self.images[indices])
        images = augment(images, self.config.augment.crop, self.config.augment.flip)
        self.optimizer.zero_grad()
        loss = self.loss(images, self.labels[indices])
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()

    def errors(self, images, labels, batch_size=1000):
        """Counts the images uint8 [N, 32, 32, 3] that the network takes for others."""
        self.network.eval()
        wrong = 0
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                part = slice(start, start + batch_size)
                inputs = self.normalize(torch.from_numpy(images[part]))
                answers = self.network(inputs).argmax(1).numpy()
                wrong += int((answers != labels[part]).sum())
        self.network.train()
        return wrong


def train(training, images, labels, report=print):
    """Trains to the end; reports the error on test images after each epoch."""
    size, start, total = len(training.images), time.perf_counter(), 0.0
    for step, indices in enumerate(training.batches(), 1):
        total += training.step(indices)
        seen = step * training.batch_size
        if step % 100 == 0:
            rate = seen / (time.perf_counter() - start)
            report(
                f"step {step}/{training.total}: loss {total / 100:.4f}, "
                f"{rate:.0f} images/s"
            )
            total = 0.0
        if (
            seen // size > (seen - training.batch_size) // size
            or step == training.total
        ):
            wrong, count = training.errors(images, labels), len(labels)
            report(
                f"test error {100 * wrong / count:.2f} % ({wrong} errors, "
                f"{count}/{count} images counted) after step {step}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20", help="of configs/cifar10.py")
    parser.add_argument("--epochs", type=float, help="instead of the recipe's")
    parser.add_argument("--steps", type=int, help="instead of the recipe's epochs")
    parser.add_argument("--data_dir", default="", help="TFDS directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    args = parser.parse_args()
    config = cifar10.get_config(args.network)
    if config.optimizer.name != "sgd":
        parser.error(f"--network={args.network}: its recipe needs another optimizer")
    config.num_epochs = args.epochs or config.num_epochs
    torch.manual_seed(args.seed)
    torch.set_num_threads(processor.cores())
    (images, labels), test = (
        data_source.open_split(
            config.dataset.name, split, data_dir=args.data_dir or None
        ).arrays()
        for split in ("train", "test")
    )
    training = Training(config, images, labels, args.steps, args.compile)
    train(training, *test)


if __name__ == "__main__":
    main()
