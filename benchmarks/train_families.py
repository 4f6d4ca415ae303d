"""Checks that every family learns: two epochs on a slice of MNIST, from its own config.

    python -m benchmarks.train_families [--only=alexnet,vgg] [--images=512]

Each row is main.py's training with the config's own network, loss and optimizer and no
augmentation, on the first images of embedded MNIST at a size that is quick, in batches
of 16 and at a constant learning rate. Rows with a rate use Adam: networks whose papers
start from small weights and train for many epochs do not get off the ground in two
short ones.
The losses, auxiliary heads included, are means over the first and the last eighth of
the steps; ln 10 is 2.303. It exits with 1 if the last loss is not below the first.
"""

import argparse
import contextlib
import importlib
import io
import json
import pathlib
import sys
import tempfile
import time
import types

import ml_collections

import train
from configs import default
from experiment import checks, workdir

# config, its argument, image size, Adam's learning rate (None: the config's optimizer).
ROWS = (
    ("alexnet", "alexnet", 67, None),
    ("zfnet", "zfnet", 64, 3e-4),
    ("overfeat", "overfeat_fast", 71, 3e-4),
    ("nin", "nin", 32, 3e-4),
    ("vgg", "vgg11", 32, 3e-4),
    ("vgg_cifar", "vgg11_cifar", 32, 3e-4),
    ("googlenet", "googlenet", 112, None),
    ("bn_inception", "bn_inception", 64, None),
    ("inception_v3", "inception_v3", 107, 3e-4),
    ("inception_v4", "inception_v4", 107, None),
    ("inception_v4", "inception_resnet_v2", 107, None),
    ("resnet50", "resnet18", 64, 3e-4),
    ("resnet_cifar", "resnet20", 32, None),
    ("preact_resnet", "preact_resnet164", 32, None),
    ("wide_resnet", "wrn_16_4", 32, None),
    ("resnext_cifar", "resnext29_1x64d", 32, 3e-4),
    ("densenet", "densenet_40_12", 32, None),
    ("densenet121", "densenet121", 64, None),
    ("fractalnet", "fractalnet", 32, 3e-4),
    ("dpn", "dpn68", 64, None),
    ("senet", "se_resnet50", 64, 3e-4),
)


def small_config(module, network, size, rate, images):
    """Makes the config of a row for the first `images` images of MNIST."""
    config = importlib.import_module(f"configs.{module}").get_config(network)
    config.num_devices = 1
    config.batch_size = 16
    config.num_epochs = 2.0
    config.num_steps = None
    config.dataset.name = "mnist"
    config.dataset.train_split = f"train[:{images}]"
    config.dataset.eval_split = "test[:100]"
    config.dataset.image_size = size
    config.dataset.fit = "resize"
    # A crop of a digit that is enlarged to 256 pixels shows a part of a stroke.
    config.augment = default.get_config().augment
    config.optimizer.ema_decay = 0.0
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 0.0
    if rate is not None:
        config.optimizer.name = "adam"
        config.optimizer.kwargs = ml_collections.ConfigDict()
        config.optimizer.learning_rate = rate
        config.optimizer.per_examples = 0
    config.eval.every_epochs = 0.0
    config.eval.batch_size = 100
    config.checkpoint.every_epochs = 0.0
    config.log.every_steps = images // 64  # an eighth of the steps
    config.log.tensorboard = False
    checks.check(config)
    return config.lock()


def train_row(path, *row):
    """Trains in the directory `path`; returns (first loss, last loss, seconds)."""
    stop = types.SimpleNamespace(requested=False)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        train.train(small_config(*row), workdir.Workdir(path), stop)
    seconds = time.perf_counter() - start
    lines = (pathlib.Path(path) / "metrics.jsonl").read_text().splitlines()
    losses = [x["train/loss"] for x in map(json.loads, lines) if "train/loss" in x]
    return losses[0], losses[-1], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default="", help="configs or networks, commas between"
    )
    parser.add_argument("--images", type=int, default=512)
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    names = sorted({name for row in ROWS for name in row[:2]})
    if unknown := {*only}.difference(names):
        parser.error(f"--only: no {', '.join(unknown)}; there are {', '.join(names)}")
    failed = []
    print(f"{'config':15} {'network':20} size  first loss  last loss  seconds")
    for module, network, size, rate in ROWS:
        if only and not {module, network} & set(only):
            continue
        with tempfile.TemporaryDirectory() as path:
            first, last, seconds = train_row(
                f"{path}/run", module, network, size, rate, args.images
            )
        row = f"{module:15} {network:20} {size:4}  {first:10.3f}  {last:9.3f}"
        print(f"{row}  {seconds:7.1f}", flush=True)
        if not last < first:
            failed.append(network)
    if failed:
        sys.exit(f"the loss did not fall: {', '.join(failed)}")


if __name__ == "__main__":
    main()
