"""Runs four papers' recipes and test protocols on photographs, end to end.

    python -m benchmarks.photographs                         # files of seven classes
    python -m benchmarks.photographs --data=fashion_mnist    # its first images

The files show parts of seven photographs that come with scikit-learn and scikit-image,
at random scales, mirrored, with noise. Each photograph is a class with 40 files to
train on and 8 to validate. Those show the same scenes, so a low error is no merit: the
benchmark shows that a paper's augmentation, initialisation and test protocol run, and
that the network learns. From Fashion-MNIST it takes the first 280 and 56 images.

Each row runs `main.py --config=configs/<network>.py` with the data set, the batch, the
epochs and, in three of them, Adam (ROWS), and then `main.py --mode=evaluate`, which
uses the paper's protocol. A batch has 16 images: the papers' SGD, with a rate for 128
or more and thousands of steps to come, does not get off the ground in a hundred steps.
GoogLeNet's average of the parameters, which takes 10,000 steps, is off.
"""

import argparse
import datetime
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from kernels import processor

ROOT = pathlib.Path(__file__).parent.parent
SAMPLES = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ),
}
SPLITS = {"train": 40, "validation": 8}  # files per class
ADAM = ("optimizer.name=adam", "optimizer.kwargs={}", "optimizer.learning_rate=1e-4")
# The config (vgg.py is of VGG-16), epochs, and further changes.
ROWS = (
    ("alexnet", 8, ADAM),
    ("vgg", 2, ADAM),
    ("googlenet", 6, (*ADAM, "optimizer.ema_decay=0")),
    ("resnet50", 4, ("optimizer.learning_rate=0.01",)),
)


def sample_photographs():
    """Opens the photographs as PIL images in RGB, in the order of SAMPLES.

    Raises:
      ImportError: scikit-learn or scikit-image is not installed.
    """
    found = []
    for package, names in SAMPLES.items():
        spec = importlib.util.find_spec(package)  # neither needs to be imported
        if spec is None:
            raise ImportError(f"{package} is missing: see requirements-parity.txt")
        folder = pathlib.Path(spec.submodule_search_locations[0])
        found += [Image.open(folder / name).convert("RGB") for name in names]
    return found


def make_photographs(directory, height, width, count, samples, seed=0):
    """Writes `count` camera-like JPEGs of quality 95, from each sample in turn."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    for i in range(count):
        sample = samples[i % len(samples)]
        scale = min(sample.width / width, sample.height / height)
        columns, rows = np.array([width, height]) * scale * rng.uniform(0.5, 1)
        left = rng.uniform(0, sample.width - columns)
        top = rng.uniform(0, sample.height - rows)
        box = (left, top, left + columns, top + rows)
        image = np.asarray(sample.resize((width, height), Image.BICUBIC, box), float)
        image = image[:, :: rng.choice([-1, 1])] + rng.normal(0, 4, image.shape)
        image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        image.save(directory / f"{i:05}.jpg", quality=95)


def make_folder(directory):
    """Makes main.py's data set, `directory`/<split>/<class>/<number>.jpg of 375x500."""
    names = [pathlib.Path(n).stem for names in SAMPLES.values() for n in names]
    for number, (name, sample) in enumerate(
        zip(names, sample_photographs(), strict=True)
    ):
        for at, (split, count) in enumerate(SPLITS.items()):
            seed = (number, at)
            make_photographs(directory / split / name, 375, 500, count, [sample], seed)


def training_flags(network, epochs, changes, data, workdir):
    """The flags of main.py that train a row's network."""
    changes = (
        *changes,
        *data,
        f"num_epochs={epochs}",
        "batch_size=16",
        "log.every_steps=5",
        "log.tensorboard=False",
        "checkpoint.every_epochs=0",
        "eval.batch_size=56",
    )
    flags = (f"--config=configs/{network}.py", f"--workdir={workdir}")
    return *flags, *(f"--config.{change}" for change in changes)


def run_row(network, epochs, changes, data, workdir):
    """Trains and evaluates; returns a row of the table, a dict."""
    training = _main(*training_flags(network, epochs, changes, data, workdir))
    testing = _main("--mode=evaluate", f"--workdir={workdir}")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    lines = {key: value for line in lines for key, value in _losses(line).items()}
    first, last = (lines[step] for step in (min(lines), max(lines)))
    record = max(workdir.glob("evaluation-*.json"), key=os.path.getmtime)
    record = json.loads(record.read_text())
    return {
        "network": network,
        "epochs": epochs,
        "first loss": f"{first:.3f}",
        "last loss": f"{last:.3f}",
        "protocol": record["protocol"],
        "errors": f"{record['errors']}/{record['count']}",
        "training": f"{training:.0f} s",
        "testing": f"{testing:.0f} s",
    }


def _losses(line):
    return {line["step"]: line["train/loss"]} if "train/loss" in line else {}


def _main(*flags):
    """Runs `python main.py` and returns its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "main.py", *flags], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args)}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="photographs", help="or fashion_mnist")
    parser.add_argument("--data_dir", default="", help="TFDS directory")
    parser.add_argument("--only", default=",".join(row[0] for row in ROWS))
    args = parser.parse_args()
    rows = [row[0] for row in ROWS]
    if unknown := {*args.only.split(",")}.difference(rows):
        parser.error(f"--only: no {', '.join(unknown)}; there are {', '.join(rows)}")
    print(f"{datetime.date.today()}, {args.data}, {processor.cores()} cores")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if args.data == "photographs":
            make_folder(folder / "photographs")
            data = (f"dataset.name=folder:{folder}/photographs",)
        else:
            data = (
                f"dataset.name={args.data}",
                f"dataset.data_dir={args.data_dir}",
                "dataset.train_split=train[:280]",
                "dataset.eval_split=test[:56]",
            )
        header = None
        for network, epochs, changes in ROWS:
            if network not in args.only.split(","):
                continue
            row = run_row(network, epochs, changes, data, folder / network)
            if header is None:
                header = row.keys()
                print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
            print(f"| {' | '.join(map(str, row.values()))} |", flush=True)


if __name__ == "__main__":
    main()
