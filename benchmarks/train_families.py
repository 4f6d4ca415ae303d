"""Every family learns: two epochs on a slice of MNIST, from each family's own config.

    python -m benchmarks.train_families [--only=alexnet,vgg] [--images=512]

Each row is main.py's training with the config's own network, loss and optimizer, on the
first images of embedded MNIST at a size that is quick; only what the row says differs.
The loss is the mean over the first and over the last eighth of the steps. It exits with
1 if a loss has not fallen.
"""

import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import time

import configuration
import train
import workdir

# config, its argument, image size, learning rate (None: the config's own).
ROWS = (
    ("alexnet", "alexnet", 67, None),
    ("zfnet", "zfnet", 64, None),
    ("overfeat", "overfeat_fast", 71, None),
    ("nin", "nin", 32, None),
    ("vgg", "vgg11", 32, None),
    ("vgg_cifar", "vgg11_cifar", 32, None),
    ("googlenet", "googlenet", 112, None),
    ("bn_inception", "bn_inception", 64, None),
    ("inception_v3", "inception_v3", 107, None),
    ("inception_v4", "inception_v4", 107, None),
    ("inception_v4", "inception_resnet_v2", 107, None),
    ("resnet50", "resnet18", 64, None),
    ("resnet_cifar", "resnet20", 32, None),
    ("preact_resnet", "preact_resnet164", 32, None),
    ("wide_resnet", "wrn_16_4", 32, None),
    ("resnext_cifar", "resnext29_1x64d", 32, None),
    ("densenet", "densenet_40_12", 32, None),
    ("densenet121", "densenet121", 64, None),
    ("fractalnet", "fractalnet", 32, None),
    ("dpn", "dpn68", 64, None),
    ("senet", "se_resnet50", 64, None),
)


def small_config(module, network, size, rate, images):
    """The config of a row for the first `images` of MNIST."""
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
    config.augment.flip = False
    config.optimizer.ema_decay = 0.0
    config.schedule.name = "constant"
    config.schedule.warmup_epochs = 0.0
    if rate is not None:
        config.optimizer.learning_rate = rate
        config.optimizer.per_examples = 0
    config.eval.every_epochs = 0.0
    config.eval.batch_size = 100
    config.checkpoint.every_epochs = 0.0
    config.log.every_steps = images // 64  # an eighth of the steps
    config.log.tensorboard = False
    configuration.check(config)
    return config.lock()


def train_row(path, *row):
    """(first loss, last loss, seconds) of a training in the directory `path`."""

    class NoStop:
        requested = False

    start = time.perf_counter()
    train.train(small_config(*row), workdir.Workdir(path), NoStop)
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
    failed, table = [], []
    for module, network, size, rate in ROWS:
        if only and not {module, network} & set(only):
            continue
        with tempfile.TemporaryDirectory() as path:
            first, last, seconds = train_row(
                f"{path}/run", module, network, size, rate, args.images
            )
        row = f"{module:15} {network:20} {size:4}  {first:10.3f}  {last:9.3f}"
        table.append(f"{row}  {seconds:7.1f}")
        if not last < first:
            failed.append(network)
    print(f"{'config':15} {'network':20} size  first loss  last loss  seconds")
    print("\n".join(table))
    if failed:
        sys.exit(f"the loss did not fall: {', '.join(failed)}")


if __name__ == "__main__":
    main()
