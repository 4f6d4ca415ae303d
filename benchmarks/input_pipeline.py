"""Times decode, Inception crop of 224 pixels, flip: python -m benchmarks.input_pipeline

The photographs, --images=400 of each size, come from benchmarks/photographs.py. Each
pipeline reads files that are in memory and gives batches of 64 as uint8:

    ours      the pipeline of main.py; antialiased
    host      ours without the flip, which an accelerator would do
    tf.data   decode_and_crop_jpeg, which decodes only the crop; not antialiased
    tf.data antialiased
              the same except for the resize
    torch     DataLoader with worker processes, torchvision's transforms on PIL images;
              antialiased
    grain     PIL on Grain's threads; antialiased
    decoding  simplejpeg decodes whole photographs on Grain's threads and no more: a
              limit of ours, which decodes the rows down to the end of the crop

Ours and its host also read the two caches of data_source/cache.py, and make crops of
224 of 256 pixels, which are not resized, from that of pixels. Each pipeline has its own
process with as many threads (Grain: twice as many) or workers as there are cores. They
work in turn, while the others wait, --rounds=3 times; the table has the medians. A CPU
second is one second of one core; it does not count what other programs take. The cells
of packages that are not installed stay empty.

`--parts` shows where the time of ours goes instead: what each of its parts takes alone,
in microseconds of a core for an image. The parts are the methods of `Parts`.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks.photographs import make_photographs, sample_photographs
from transforms import preprocessing as preprocessings

ROOT = pathlib.Path(__file__).parent.parent
SIZE, BATCH, PREFETCH = 224, 64, 4
WARM_UP = 2 * PREFETCH  # batches, more than any pipeline keeps ready
PHOTOS = {"JPEG 500x375": (375, 500), "JPEG 512x512": (512, 512)}
# They hold the photographs of JPEG 500x375, with a short side of 256 pixels.
CACHES = {
    "resized cache": "resized",
    "pixel cache": "pixels",
    "pixel cache, crops": "pixels",
}


@dataclasses.dataclass(frozen=True)
class Files:
    """Gives examples as the source of an image folder's data_source.Split does."""

    paths: tuple

    def __len__(self):
        return len(self.paths)

    def examples(self, indices):
        import data_source

        return [
            data_source.Example(self.paths[i].read_bytes(), 0, str(self.paths[i]))
            for i in map(int, indices)
        ]

    def stamps(self):
        return np.array([path.stat().st_mtime_ns for path in self.paths], np.uint64)


def open_photographs(directory, name):
    """Opens the data_source.Split of that name, from a cache if the name is one."""
    import data_source
    from data_source import cache

    photos = name if name in PHOTOS else next(iter(PHOTOS))
    paths = tuple(sorted((directory / photos).iterdir()))
    shape = (None, None, 3)
    split = data_source.Split(photos, "train", Files(paths), shape, ("photograph",))
    if name in PHOTOS:
        return split
    return cache.open_cached(
        split, CACHES[name], directory / "caches", 256, report=lambda line: None
    )


def view_of(name):
    return "rescale_crop" if name.endswith("crops") else "inception_crop"


# The pipelines. Each takes a split and a number of threads and returns an endless
# iterator of uint8 [BATCH, SIZE, SIZE, 3].


def ours(split, threads, view="inception_crop"):
    import jax

    from transforms import augment

    @jax.jit
    def flip(batch):
        keys = preprocessings.example_keys(0, batch["epoch"], batch["index"])
        options = augment.Augmentation(flip=True)
        return augment.augment(batch["image"], keys, options)

    return (np.asarray(flip(batch)) for batch in batches(split, threads, view))


def host(split, threads, view="inception_crop"):
    return (batch["image"] for batch in batches(split, threads, view))


def batches(split, threads, view):
    import input_pipeline
    from transforms import policies

    crops = policies.HostAugmentation(view=view)
    return input_pipeline.train_batches(
        split,
        input_pipeline.TrainPlan(len(split), BATCH, seed=0),
        0,
        10**9,
        num_threads=threads,
        prefetch=PREFETCH,
        view=preprocessings.TrainView(crops, ((0, SIZE),)),
    )


def decoding(split, threads):
    import simplejpeg

    import input_pipeline

    blank = np.zeros((BATCH, SIZE, SIZE, 3), np.uint8)

    def load(step):
        index = np.arange(step * BATCH, (step + 1) * BATCH) % len(split)
        for example in split.examples(index):
            simplejpeg.decode_jpeg(example.image, "RGB")
        return blank

    return input_pipeline.stream(load, 0, 10**9, threads, PREFETCH)


def grain_pil(split, threads):
    import io

    import grain

    from transforms import resizing

    def load(index, rng):
        (example,) = split.examples([index])
        image = Image.open(io.BytesIO(example.image)).convert("RGB")
        top, left, rows, columns = resizing.inception_box(*image.size[::-1], rng)
        image = image.crop((left, top, left + columns, top + rows))
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    data = grain.MapDataset.range(len(split)).seed(0).shuffle().repeat()
    data = data.random_map(load).batch(BATCH)
    # With two threads per core, one decodes while another waits for Python's lock.
    options = grain.ReadOptions(num_threads=2 * threads, prefetch_buffer_size=PREFETCH)
    return iter(data.to_iter_dataset(options))


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

    from weights import twins

    twins.torchvision_models()
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
    "host": host,
    "tf.data": functools.partial(tf_data, antialias=False),
    "tf.data antialiased": functools.partial(tf_data, antialias=True),
    "torch": torch_loader,
    "grain": grain_pil,
    "decoding": decoding,
}


# Measurement.


def serve(contestant, directory, threads):
    """Measures the photographs and number of batches that standard input asks for.

    It answers each line with a line of JSON.
    """
    answers, running = sys.stdout, {}
    # The parent would take a library's output for an answer.
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            name, batches = json.loads(line)
            try:
                if name not in running:
                    split = open_photographs(directory, name)
                    view = {"view": view_of(name)} if name in CACHES else {}
                    running[name] = CONTESTANTS[contestant](split, threads, **view)
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
    """CPU seconds that this process and its workers have used so far."""
    import psutil

    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children())]
    return sum(x.user + x.system for x in times)


def compare(directory, names, contestants, threads, rounds, batches):
    """Returns {(photographs, contestant): [answer of each round]}."""
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
            if name in CACHES and contestant not in ("ours", "host"):
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


class Parts:
    """The parts of our pipeline; each method below works on one batch."""

    def __init__(self, split, view):
        import jax

        import input_pipeline
        from transforms import decode, policies

        self.split = split
        plan = input_pipeline.TrainPlan(len(split), BATCH, seed=0)
        self.index = plan.indices(0, 1)[0][0]
        self.examples = split.examples(self.index)
        self.stored = [decode.decode_lazily(x.image, 3) for x in self.examples]
        self.images = [image[:, :] for image in self.stored]
        self.rngs = self.seed()
        self.boxes = self.choose()
        self.augmentation = policies.HostAugmentation(view=view)
        self.crops = self.crop()
        self.running = batches(split, 0, view)  # without threads
        self.batch, self.other = (next(self.running)["image"] for _ in range(2))
        self.handed = input_pipeline.stream(lambda _: self.batch, 0, 10**9, 1, PREFETCH)
        mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
        self.sharding = jax.NamedSharding(mesh, jax.P("data"))

    def read(self):
        """Takes the examples: the bytes of files, or pixels that are mapped."""
        return self.split.examples(self.index)

    def seed(self):
        """Makes the examples' random generators."""
        from transforms import generators

        numbers = np.stack([self.index] * 3, axis=1)
        return [generators.generator(x) for x in generators.states(0, numbers)]

    def choose(self):
        """Draws the places of Inception crops."""
        from transforms import resizing

        pairs = zip(self.images, self.rngs, strict=True)
        return [resizing.inception_box(*x.shape[:2], rng) for x, rng in pairs]

    def decode(self):
        """Decodes whole images."""
        return [image[:, :].shape for image in self.stored]

    def decode_rows(self):
        """Decodes images down to the end of an Inception crop."""
        pairs = zip(self.stored, self.boxes, strict=True)
        return [x[: top + rows, :].shape for x, (top, _, rows, _) in pairs]

    def crop(self):
        """Draws the places of the crops; cuts and resizes them."""
        pairs = zip(self.images, self.rngs, strict=True)
        return [self.augmentation(image, rng, SIZE) for image, rng in pairs]

    def copy_crops(self):
        """Copies the crops into a batch."""
        for row, image in zip(self.batch, self.crops, strict=True):
            np.copyto(row, image)

    def copy_batch(self):
        """Copies a whole batch: what the memory allows."""
        np.copyto(self.batch, self.other)

    def hand_on(self):
        """Takes a batch that is there already from one of Grain's threads."""
        next(self.handed)

    def send(self):
        """Sends a batch to JAX's first device."""
        import input_pipeline

        input_pipeline.put(self.other, self.sharding).block_until_ready()

    def whole(self):
        """Makes a batch from the split, without threads."""
        next(self.running)


PARTS = [name for name in vars(Parts) if not name.startswith("_")]


def time_parts(directory, name, rounds):
    """Returns {part: median microseconds of a core for an image}."""
    parts = Parts(open_photographs(directory, name), view_of(name))
    times = {part: [] for part in PARTS}
    for _, part in itertools.product(range(rounds), PARTS):
        began = time.process_time()
        getattr(parts, part)()
        times[part].append(1e6 * (time.process_time() - began) / BATCH)
    return {part: statistics.median(found) for part, found in times.items()}


def table_of_parts(found):
    """Makes the lines of a Markdown table from {photographs: times of parts}."""
    lines = [f"| part | {' | '.join(found)} |", f"|---|{'---:|' * len(found)}"]
    for part in PARTS:
        cells = [f"{times[part]:,.1f}" for times in found.values()]
        lines.append(f"| {part.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def table(found, threads):
    """Makes the lines of a Markdown table."""
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
    parser.add_argument("--parts", action="store_true", help="time the parts of ours")
    args = parser.parse_args(argv)
    contestants = args.only.split(",")
    if unknown := set(contestants) - set(CONTESTANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    from benchmarks import side_by_side  # with jax, which a child would pay for

    cores = side_by_side.cores()
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        print(f"{datetime.date.today()}, {side_by_side.processor()}, {cores} cores")
        for name, shape in PHOTOS.items():
            make_photographs(
                directory / name, *shape, args.images, sample_photographs()
            )
            sizes = [f.stat().st_size for f in (directory / name).iterdir()]
            print(f"{name}: {len(sizes)} files of {np.mean(sizes) / 1e3:.0f} kB")
        names = [*PHOTOS, *CACHES]
        if args.parts:
            found = {name: time_parts(directory, name, args.rounds) for name in names}
            print("\n" + "\n".join(table_of_parts(found)))
            return
        found = compare(directory, names, contestants, cores, args.rounds, args.batches)
    for contestant in contestants:
        answer = found[next(iter(PHOTOS)), contestant][0]
        if "missing" in answer:
            print(f"without {contestant}: {answer['missing']}")
    print("\n" + "\n".join(table(found, cores)))


if __name__ == "__main__":
    main()
