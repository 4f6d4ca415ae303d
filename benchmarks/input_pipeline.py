"""Decode, Inception crop of 224 pixels, flip: python -m benchmarks.input_pipeline

Photographs of several hundred files (--images=400) are made from the samples that
scikit-learn and scikit-image bring along: parts of them in random scale, mirrored, with
noise. Each pipeline reads files that are in memory and gives batches of 64 as uint8:

    ours      what main.py uses: images/ on Grain's threads; antialiased
    tf.data   decode_and_crop_jpeg, which decodes only the crop; not antialiased
    tf.data antialiased
              the same but for the resize
    torch     DataLoader with worker processes, torchvision's transforms on PIL images;
              antialiased
    grain     PIL on Grain's threads; antialiased

and ours alone from the two caches of images/cache.py. Each lives in a process of its
own with as many threads (Grain: twice as many) or workers as there are cores, and works
while the others wait, in turn, --rounds=3 times; printed are medians. A CPU second is
one second of one core; it does not count what other programs take. What is not
installed stays empty.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
SIZE, BATCH, PREFETCH = 224, 64, 4
WARM_UP = 2 * PREFETCH  # batches: more than any pipeline keeps ready
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
PHOTOS = {"JPEG 500x375": (375, 500), "JPEG 512x512": (512, 512)}
# Of JPEG 500x375, with a short side of 256 pixels.
CACHES = {"resized cache": "resized", "pixel cache": "pixels"}


# The photographs.


def sample_photographs():
    """PIL images in RGB.

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


def make_photographs(directory, height, width, count):
    """Writes `count` JPEGs of quality 95 that look like a camera's."""
    rng, samples = np.random.default_rng(0), sample_photographs()
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


@dataclasses.dataclass(frozen=True)
class Files:
    """What a data_source.Split of an image folder gives."""

    paths: tuple

    def __len__(self):
        return len(self.paths)

    def examples(self, indices):
        import data_source

        return [
            data_source.Example(self.paths[i].read_bytes(), 0, str(self.paths[i]))
            for i in map(int, indices)
        ]


def open_photographs(directory, name):
    """The data_source.Split of that name, from a cache where it is one."""
    import data_source
    from images import cache

    photos = name if name in PHOTOS else next(iter(PHOTOS))
    paths = tuple(sorted((directory / photos).iterdir()))
    shape = (None, None, 3)
    split = data_source.Split(photos, "train", Files(paths), shape, ("photograph",))
    if name in PHOTOS:
        return split
    return cache.open_cached(
        split, CACHES[name], directory / "caches", 256, report=lambda line: None
    )


# The pipelines. Each takes a split and a number of threads and gives an endless
# iterator of uint8 [BATCH, SIZE, SIZE, 3].


def on_grain(split, threads, view):
    """`view` gives the crop of an example as a numpy array, or as a PIL image."""
    import input_pipeline

    plan = input_pipeline.TrainPlan(len(split), BATCH, seed=0)

    def load(step):
        images = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
        index, epoch = plan.indices(step, step + 1)
        for i, example in enumerate(split.examples(index[0])):
            key = [int(epoch[0, i]), int(index[0, i])]
            rng = np.random.Generator(np.random.Philox(key=key))
            image = np.asarray(view(example.image, rng))
            if rng.random() < 0.5:
                for c in range(3):  # a third of the time of images[i] = image[:, ::-1]
                    images[i, :, :, c] = image[:, ::-1, c]
            else:
                images[i] = image
        return images

    # Two for a core: one decodes while another waits for Python's lock.
    return input_pipeline._stream(load, 0, 10**9, 2 * threads, PREFETCH)


def ours(split, threads):
    from images import views
    from images.decode import decode_lazily

    def view(data, rng):
        return views.inception_crop(decode_lazily(data, 3), rng, SIZE)

    return on_grain(split, threads, view)


def grain_pil(split, threads):
    import io

    from images import views

    def view(data, rng):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        top, left, rows, columns = views.inception_box(*image.size[::-1], rng)
        part = image.crop((left, top, left + columns, top + rows))
        return part.resize((SIZE, SIZE), Image.Resampling.BILINEAR)

    return on_grain(split, threads, view)


def tf_data(split, threads, antialias):
    import tensorflow as tf

    def load(path):
        data = tf.io.read_file(path)
        shape = tf.io.extract_jpeg_shape(data)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
        image = tf.image.random_flip_left_right(image)
        return tf.cast(tf.round(image), tf.uint8)

    paths = [str(path) for path in split.source.paths]
    data = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    data = data.map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(PREFETCH)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return data.with_options(options).as_numpy_iterator()


def torch_loader(split, threads):
    import torch
    import torch.utils.data

    from benchmarks import torch_networks

    torch_networks.torchvision_models()
    from torchvision import transforms

    paths = split.source.paths
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )

    class Photographs(torch.utils.data.IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            rng = np.random.default_rng(info.id)
            while True:
                for i in rng.permutation(len(paths)):
                    with Image.open(paths[i]) as image:
                        yield transform(image.convert("RGB"))

    loader = torch.utils.data.DataLoader(
        Photographs(), BATCH, num_workers=threads, prefetch_factor=PREFETCH // 2
    )
    return (batch.permute(0, 2, 3, 1).numpy() for batch in loader)


CONTESTANTS = {
    "ours": ours,
    "tf.data": functools.partial(tf_data, antialias=False),
    "tf.data antialiased": functools.partial(tf_data, antialias=True),
    "torch": torch_loader,
    "grain": grain_pil,
}


# Measurement.


def serve(contestant, directory, threads):
    """Measures whatever photographs, and however many batches, standard input asks for.

    Each line is answered with a line of JSON.
    """
    answers, running = sys.stdout, {}
    # What libraries print would be taken for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            name, batches = json.loads(line)
            try:
                if name not in running:
                    split = open_photographs(directory, name)
                    running[name] = CONTESTANTS[contestant](split, threads)
                answer = measure(running[name], batches)
            except ImportError as error:
                answer = {"missing": str(error)}
            print(json.dumps(answer), file=answers, flush=True)


def measure(batches, count):
    for batch in itertools.islice(batches, WARM_UP):
        assert batch.shape == (BATCH, SIZE, SIZE, 3) and batch.dtype == np.uint8
    began, used = time.perf_counter(), cpu_seconds()
    for _ in itertools.islice(batches, count):
        pass
    seconds, used = time.perf_counter() - began, cpu_seconds() - used
    return {"images/s": count * BATCH / seconds, "CPU second": count * BATCH / used}


def cpu_seconds():
    """Of this process and its workers, so far."""
    import psutil

    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children())]
    return sum(x.user + x.system for x in times)


def compare(directory, names, contestants, threads, rounds, batches):
    """{(photographs, contestant): [answer of each round]}."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    servers, found = {}, {}
    try:
        for contestant in contestants:
            with open(directory / f"{contestant}.log", "w") as log:
                servers[contestant] = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "benchmarks.input_pipeline"),
                        *("--child", contestant, str(directory), str(threads)),
                    ],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        for _, name, contestant in itertools.product(range(rounds), names, contestants):
            if name in CACHES and contestant != "ours":
                continue
            server = servers[contestant]
            print(json.dumps([name, batches]), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            if not answer:
                log = (directory / f"{contestant}.log").read_text()
                raise RuntimeError(f"{contestant} died on {name}:\n{log}")
            found.setdefault((name, contestant), []).append(json.loads(answer))
    finally:
        for server in servers.values():
            server.kill()
            server.communicate()
    return found


def table(found, threads):
    """Lines of markdown."""
    lines = [
        "| images | pipeline | images/s | per core | per CPU second |",
        "|---|---|---:|---:|---:|",
    ]
    for (name, contestant), answers in found.items():
        cells = [""] * 3
        if "missing" not in answers[0]:
            rate, cpu = (
                statistics.median(answer[key] for answer in answers)
                for key in ("images/s", "CPU second")
            )
            cells = [f"{x:,.0f}" for x in (rate, rate / threads, cpu)]
        lines.append(f"| {name} | {contestant} | {' | '.join(cells)} |")
    return lines


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--child"]:
        contestant, directory, threads = argv[1:]
        serve(contestant, pathlib.Path(directory), int(threads))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=400, help="files of each kind")
    parser.add_argument("--batches", type=int, default=40, help="of 64, in a round")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants")
    args = parser.parse_args(argv)
    contestants = args.only.split(",")
    if unknown := set(contestants) - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        print(f"{datetime.date.today()}, {machine()}, {cores} cores")
        for name, shape in PHOTOS.items():
            make_photographs(directory / name, *shape, args.images)
            sizes = [f.stat().st_size for f in (directory / name).iterdir()]
            print(f"{name}: {len(sizes)} files of {np.mean(sizes) / 1e3:.0f} kB")
        names = [*PHOTOS, *CACHES]
        found = compare(directory, names, contestants, cores, args.rounds, args.batches)
    for contestant in contestants:
        answer = found[next(iter(PHOTOS)), contestant][0]
        if "missing" in answer:
            print(f"without {contestant}: {answer['missing']}")
    print("\n" + "\n".join(table(found, cores)))


def machine():
    """The processor's name."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(": ")[2] for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
