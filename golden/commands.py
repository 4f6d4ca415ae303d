"""The commands of record.py: trainings, modes, sweeps and what is refused."""

import io
import json
import shutil

import numpy as np
from PIL import Image, ImageDraw

# 30 steps of 64 images in three epochs of ten steps.
SMALL = {
    "num_devices": 1,
    "batch_size": 64,
    "num_epochs": 3.0,
    "steps_per_dispatch": 7,
    "dataset.train_split": "train[:640]",
    "dataset.eval_split": "test[:203]",
    "eval.batch_size": 100,
    "log.every_steps": 4,
    "log.tensorboard": False,
}


def small(config="lenet5.py:modern", **overrides):
    """Arguments of a shrunk training; overrides have "__" for "."."""
    changes = SMALL | {k.replace("__", "."): v for k, v in overrides.items()}
    fields = [f"--config.{k}={v}" for k, v in changes.items() if v is not None]
    return [f"--config=configs/{config}", *fields]


MODERN = small()
ENDLESS = ["--config.num_epochs=100000.0", "--config.eval.every_epochs=1000.0"]
CONSTANT = {"schedule__name": "constant", "num_epochs": 1.0}
RESNET = {
    "config": "resnet_cifar.py",
    "batch_size": 32,
    "num_steps": 6,
    "dataset__name": "mnist",
    "dataset__mean": "(33.3,)",
    "dataset__std": "(78.6,)",
    "eval__batch_size": 32,
    "dataset__eval_split": "test[:100]",
    "dataset__train_split": "train[:320]",
}
FOLDER = {
    "dataset__name": "folder:TMP/files/photographs",
    "dataset__train_split": "train",
    "dataset__eval_split": "validation",
    "batch_size": 8,
    "num_steps": 6,
}

# Of each run its starts, all in the same directory.
RUNS = {
    "modern": [MODERN],
    "modern_1": [small(steps_per_dispatch=1)],
    "modern_host": [small(dataset__placement="host")],
    "two_devices": [small(num_devices=2)],
    "seed_5": [small(seed=5, num_steps=10)],
    "inception_crop": [
        small(
            augment__view="inception_crop",
            augment__flip=True,
            augment__interpolation="random",
            num_epochs=1.0,
        )
    ],
    "rescale_crop": [
        small(
            augment__view="rescale_crop",
            augment__short_side="(34, 40)",
            augment__image_sizes="((0, 28), (1, 32))",
            augment__policy="randaugment",
            dataset__fit="crop",
            dataset__short_side=36,
            augment__crop=0,
            model__name="nin",
            num_steps=14,
            batch_size=32,
            dataset__train_split="train[:320]",
        )
    ],
    "trivialaugment": [small(augment__policy="trivialaugment", num_epochs=1.0)],
    "map": [small("lenet5.py")],
    "paper": [
        small(
            "lenet5.py:paper",
            batch_size=1,
            num_steps=30,
            optimizer__curvature_examples=50,
            log__every_steps=10,
        )
    ],
    "distortions": [
        small("lenet5.py:distortions", batch_size=1, num_steps=9, loss__name="ml")
    ],
    "average": [
        small(
            optimizer__ema_decay=0.9,
            optimizer__ema_every=2,
            optimizer__accumulate=2,
            augment__mixup=0.2,
            augment__cutmix=1.0,
            loss__label_smoothing=0.1,
        )
    ],
    "plateau": [
        small(
            schedule__name="plateau",
            schedule__patience=1,
            optimizer__learning_rate=0.0001,
            eval__every_epochs=0.2,
            num_epochs=2.0,
        )
    ],
    "mean_image": [
        small(
            dataset__whiten="mean_image",
            augment__crop_mode="mean",
            eval__image_size=32,
            augment__repeats=2,
        )
    ],
    "zca": [small(dataset__whiten="gcn_zca", dataset__image_size=28, num_epochs=1.0)],
    "colours": [
        small(
            augment__brightness=0.4,
            augment__contrast=0.4,
            augment__rotate=10.0,
            augment__erasing=0.5,
            augment__crop_mode="reflect",
            eval__image_size=28,
            loss__name="binary_cross_entropy",
            num_epochs=1.0,
        )
    ],
    "lars": [
        small(
            optimizer__name="lars",
            optimizer__kwargs="{}",
            optimizer__per_examples=256,
            optimizer__clip_norm=1.0,
            optimizer__decay_mask="kernels",
            schedule__name="polynomial",
            schedule__warmup_epochs=0.5,
            num_epochs=2.0,
        )
    ],
    "adamw": [
        small(
            optimizer__name="adamw",
            optimizer__kwargs="{'b1': 0.8}",
            optimizer__learning_rate=0.001,
            optimizer__filter_rms="(('C[13]/kernel', 0.1),)",
            schedule__name="exponential",
            num_epochs=1.0,
        )
    ],
    "uninterrupted": [small(**CONSTANT, num_steps=30)],
    "resumed": [
        small(**CONSTANT, num_steps=15),
        small(**CONSTANT, num_steps=30),
        small(**CONSTANT, num_steps=30),
    ],
    "resnet20": [small(**RESNET)],
    "resnet20_bf16": [
        small(
            **RESNET
            | {
                "model__dtype": "bfloat16",
                "model__remat": "all",
                "batch_size": 8,
                "num_steps": 2,
                "dataset__eval_split": "test[:8]",
                "eval__batch_size": 8,
            }
        )
    ],
    "googlenet": [
        small(
            "googlenet.py",
            dataset__name="mnist",
            dataset__image_size=80,
            dataset__fit="resize",
            augment__view="",
            augment__brightness=0.0,
            batch_size=4,
            num_steps=4,
            steps_per_dispatch=2,
            dataset__train_split="train[:80]",
            dataset__eval_split="test[:20]",
            eval__batch_size=20,
        )
    ],
    "nin": [
        small(
            "nin.py",
            dataset__name="mnist",
            dataset__whiten="",
            batch_size=16,
            num_steps=6,
            eval__batch_size=32,
            dataset__eval_split="test[:64]",
        )
    ],
    "folder": [small(**FOLDER, augment__view="inception_crop", dataset__fit="resize")],
    "folder_cached": [
        small(
            **FOLDER,
            augment__view="rescale_crop",
            augment__short_side="(36, 40)",
            dataset__cache="pixels",
            dataset__cache_dir="TMP/pixels",
            dataset__cache_side=48,
            dataset__fit="crop",
            dataset__short_side=36,
            augment__crop=0,
        )
    ],
    "tuned": [
        small(
            init_from="TMP/modern",
            init_layers="('backbone',)",
            optimizer__rate_factors="(('C1', 0.0), ('bias', 2.0))",
            optimizer__unfreeze="(('C3', 1.0),)",
            num_epochs=2.0,
        )
    ],
    "as_it_is": [small(init_from="TMP/modern", num_epochs=0.0, num_steps=None)],
}
LATER = ("tuned", "as_it_is")  # They start from another run.
IN_ERRORS = ("modern", "map", "folder", "mean_image")

EVALUATE = ("--mode=evaluate", "--workdir=RUN/modern")
DIGITS = ",".join(f"TMP/files/digit{i}.png" for i in range(3))
MODES = {
    "evaluate": EVALUATE,
    "evaluate_best": (*EVALUATE, "--checkpoint=best", "--change=eval.batch_size=7"),
    "evaluate_step": (*EVALUATE, "--checkpoint=20"),
    "ten_crop": (
        *EVALUATE,
        "--change=eval.protocol=ten_crop",
        "--change=eval.scales=36",
        "--change=eval.average=logits",
    ),
    "scales": (
        *EVALUATE,
        "--change=eval.protocol=scales",
        "--change=eval.scales=32,36",
    ),
    "dense": (
        "--mode=evaluate",
        "--workdir=RUN/rescale_crop",
        "--change=eval.protocol=dense",
        "--change=eval.scales=36,40",
    ),
    "ensemble": ("--mode=evaluate", "--workdir=RUN/modern,RUN/map"),
    "average": ("--mode=evaluate", "--workdir=RUN/average"),
    "folder": ("--mode=evaluate", "--workdir=RUN/folder"),
    "population": (
        "--mode=evaluate",
        "--workdir=RUN/resnet20",
        "--batch_stats=population",
    ),
    "predict": ("--mode=predict", "--workdir=RUN/modern", f"--images={DIGITS}"),
    "predict_whitened": (
        "--mode=predict",
        "--workdir=RUN/mean_image",
        f"--images={DIGITS}",
    ),
    "predict_folder": ("--mode=predict", "--workdir=RUN/folder", f"--images={DIGITS}"),
    "inspect": ("--mode=inspect", "--workdir=RUN/modern", "--database=100"),
    "inspect_images": (
        "--mode=inspect",
        "--workdir=RUN/resnet20",
        f"--images={DIGITS}",
    ),
    "plot": ("--mode=plot", "--workdir=RUN/modern,RUN/map"),
    "plot_output": ("--mode=plot", "--workdir=RUN/modern", "--output=RUN/modern/c.png"),
    "safetensors": ("--mode=export", "--workdir=RUN/modern"),
    "safetensors_resnet20": ("--mode=export", "--workdir=RUN/resnet20"),
    "safetensors_average": (
        "--mode=export",
        "--workdir=RUN/average",
        "--checkpoint=best",
    ),
    "stablehlo": ("--mode=export", "--workdir=RUN/resnet20", "--format=stablehlo"),
    "torchvision": ("--mode=export", "--workdir=RUN/resnet20", "--format=torchvision"),
    "summarize": ("--mode=summarize", "--workdir=RUN/resnet20"),
}

SWEEPS = {
    "sweep": [
        *small(num_steps=8),
        "--mode=sweep",
        "--vary=seed=0,1",
        "--vary=optimizer.learning_rate=0.03,1e30",
    ],
    "sweep_together": [
        *small(num_steps=8, optimizer__ema_decay=0.9),
        "--mode=sweep",
        "--together=2",
        "--vary=optimizer.kwargs.momentum=0.5,0.9",
        "--vary=loss.label_smoothing=0.0,0.1",
    ],
}

SUMMARIZED = (
    "lenet5.py",
    "alexnet.py",
    "googlenet.py",
    "resnet50.py",
    "vgg.py:vgg16",
    "densenet.py:densenet121",
)

# (network, pixels, channels, classes) whose values are computed.
COMPUTED = (
    ("lenet5", 32, 1, 10),
    ("lenet5_modern", 32, 1, 10),
    ("alexnet", 227, 3, 10),
    ("zfnet", 224, 3, 10),
    ("nin", 32, 3, 10),
    ("vgg11", 32, 3, 10),
    ("vgg16_cifar", 32, 3, 10),
    ("googlenet", 96, 3, 10),
    ("googlenet_bn", 96, 3, 10),
    ("resnet18", 64, 3, 10),
    ("resnet20", 32, 3, 10),
    ("plain20", 32, 3, 10),
    ("resnet50", 64, 3, 10),
    ("resnext50_32x4d", 64, 3, 10),
    ("se_resnet50", 64, 3, 10),
    ("wrn_16_4", 32, 3, 10),
    ("densenet_40_12", 32, 3, 10),
    ("dpn68", 64, 3, 10),
    ("fractalnet_5", 32, 3, 10),
)

RUN, NEW = ("--workdir=TMP/spoilt/modern",), "--workdir=NEW"
FIELDS = {
    "optimizer.learning_rte": 1,
    "batch_size": ("1.5", 0),
    "num_steps": 0,
    "num_epochs": (-1.0, "nan"),
    "seed": (-1, 2**63),
    "model.name": ("lenet", "lenet6"),
    "model.fields": ("{'dropuot': 0.5}", "{'pool': 'mean'}"),
    "model.dtype": "float16",
    "model.remat": ("conv9", "C1"),
    "model.frozen_statistics": True,
    "dataset.eval_split": ("tset", "test[:0]"),
    "dataset.data_dir": ("TMP/files/empty", "TMP/files/nowhere"),
    "dataset.std": "(0.0,)",
    "dataset.mean": "()",
    "dataset.image_size": 20,
    "dataset.cache": "pixels",
    "dataset.whiten": "zca",
    "num_devices": 2,
    "optimizer.name": "addam",
    "optimizer.kwargs": "{'momentm': 0.9}",
    "optimizer.accumulate": 3,
    "optimizer.rate_factors": ("(('(', 1.0),)", "(('conv9', 1.0),)"),
    "init_from": ("TMP/files", "TMP/map", "TMP/files/text.png", "hf:nobody"),
    "init_layers": "('conv9',)",
    "loss.name": "softmax",
    "schedule.name": "cosin",
    "schedule.boundaries": "(-1.0,)",
    "augment.view": "inception",
    "augment.short_side": "(512, 256)",
    "augment.area": "(0.5, 1.1)",
    "augment.repeats": 3,
    "augment.image_sizes": "((0, 28),)",
    "augment.hue": 0.6,
    "eval.scales": "(256,)",
    "eval.protocol": "ten_crops",
}
SHORTCUT = ("--config.model.name=resnet20", "--config.model.fields={'shortcut': 'x'}")
FOLDERS = (
    *("folder:TMP/files/nowhere", "folder:", "folder:TMP/files/empty"),
    *("folder:TMP/files/stray", "folder:TMP/files/classless", "csv:TMP/files/no.csv"),
    *("csv:TMP/files/missing.csv", "csv:TMP/files/gap.csv", "mnits", "a b"),
)
ERRORS = [
    [*MODERN, NEW, f"--config.{name}={value}"]
    for name, values in FIELDS.items()
    for value in (values if isinstance(values, tuple) else (values,))
]
ERRORS += [[*MODERN, NEW, f"--config.dataset.name={name}"] for name in FOLDERS]
ERRORS += [
    # Flags.
    [],
    ["stray"],
    [*MODERN],
    [NEW, *MODERN, "--confg=3"],
    [NEW, *MODERN, "--mode=test"],
    [NEW],
    ["--mode=summarize"],
    ["--config=configs/none.py", NEW],
    ["--config=configs/lenet5.py:papr", NEW],
    ["--config=configs/resnet50.py:resnet51", NEW],
    ["--mode=summarize", *MODERN, "--config.model.name=inception_v4"],
    ["--mode=summarize", *MODERN, *SHORTCUT],
    ["--mode=summarize", *MODERN, "--config.dataset.name=imagenet2013"],
    ["--mode=predict", *RUN],
    ["--mode=predict", *MODERN, *RUN, "--images=a.png"],
    ["--mode=export", *MODERN, NEW],
    ["--mode=export", NEW, "--output=net.onnx"],
    ["--mode=export", *RUN, "--format=pth"],
    ["--mode=evaluate", *MODERN, "--workdir=TMP/spoilt/modern,TMP/spoilt/map"],
    ["--mode=inspect", *RUN, "--database=0"],
    ["--mode=predict", *RUN, "--images=a.png", "--change=eval.batch_size=3"],
    [*MODERN, NEW, "--change=eval.batch_size=3"],
    # Sweeps.
    ["--mode=sweep", *MODERN, NEW],
    ["--mode=sweep", *MODERN, NEW, "--vary=batch_size=1,2"],
    ["--mode=sweep", *MODERN, NEW, "--vary=sed=1,2"],
    ["--mode=sweep", *MODERN, NEW, "--vary=seed=1,x"],
    ["--mode=sweep", *MODERN, NEW, "--vary=seed=1,1"],
    ["--mode=sweep", *MODERN, NEW, "--vary=seed=-1,1"],
    ["--mode=sweep", *MODERN, NEW, "--vary=seed=1", "--together=-1"],
    ["--mode=sweep", *MODERN, NEW, "--vary=seed=1", "--config.init_from=TMP/modern"],
    ["--mode=sweep", *MODERN, NEW, "--vary=seed=1", "--config.schedule.name=plateau"],
    [
        "--mode=sweep",
        *MODERN,
        NEW,
        "--vary=seed=1",
        "--config.augment.policy=randaugment",
    ],
    ["--mode=sweep", *MODERN, *RUN, "--vary=seed=1"],
    [
        "--mode=sweep",
        *MODERN,
        NEW,
        "--vary=seed=1",
        "--config.dataset.whiten=mean_image",
    ],
    # Runs.
    ["--mode=evaluate", NEW],
    ["--mode=evaluate", "--workdir=TMP/files/empty"],
    ["--mode=predict", NEW, "--images=a.png"],
    ["--mode=inspect", NEW],
    ["--mode=plot", NEW],
    ["--mode=plot", *RUN, "--output=TMP/files/a.pdf"],
    ["--mode=export", NEW],
    ["--mode=evaluate", *RUN, "--checkpoint=7"],
    ["--mode=evaluate", *RUN, "--checkpoint=newest"],
    ["--mode=export", *RUN, "--format=onnx"],
    ["--mode=export", *RUN, "--format=torchvision"],
    ["--mode=evaluate", "--workdir=TMP/spoilt/modern,TMP/spoilt/folder"],
    ["--mode=evaluate", "--workdir=TMP/spoilt/folder", "--batch_stats=population"],
    [*MODERN, "--workdir=TMP/files/thesis"],
    [*MODERN, "--workdir=TMP/files/thesis/thesis.tex/run"],
    [*MODERN, *RUN, "--config.optimizer.learning_rate=0.5", "--config.seed=3"],
    [*MODERN, *RUN, "--config.num_epochs=4.0"],
    [*MODERN, NEW, "--config.optimizer.learning_rate=1e30"],
    *[
        ["--mode=evaluate", *RUN, *(f"--change={x}" for x in changes)]
        for changes in (
            ["eval.protocl=dense"],
            ["optimizer.learning_rate=1.0"],
            ["eval.batch_size=many"],
            ["eval.batch_size=1.5"],
            ["eval.protocol=ten"],
            ["eval.protocol=crops_144", "eval.scales=20"],
            ["eval.protocol=offsets"],
            ["num_devices=2"],
            ["dataset.eval_split=tset"],
        )
    ],
    *[
        ["--mode=predict", *RUN, f"--images=TMP/files/{name}"]
        for name in ("text.png", "cut.png", "none.png", "strip.png")
    ],
    # Runs in which something is wrong.
    *[
        ["--mode=evaluate", f"--workdir=TMP/spoilt/{name}"]
        for name in (
            *("model", "config", "empty", "shape", "damaged", "flipped", "nothing"),
            *("statistics", "field"),
        )
    ],
    ["--mode=predict", "--workdir=TMP/spoilt/dataset", f"--images={DIGITS}"],
    ["--mode=predict", "--workdir=TMP/spoilt/preprocessing", f"--images={DIGITS}"],
    ["--mode=plot", "--workdir=TMP/spoilt/metrics"],
    ["--mode=export", "--workdir=TMP/spoilt/flipped"],
    [*MODERN, "--workdir=TMP/spoilt/config"],
    [*MODERN, "--workdir=TMP/spoilt/damaged"],
]


def make_files(folder):
    """Digits, broken images and small image folders."""
    rng = np.random.default_rng(0)
    for name in ("empty", "thesis", "classless", "stray/cat"):
        (folder / name).mkdir(parents=True)
    (folder / "thesis" / "thesis.tex").write_text("years of work")
    for number in range(3):
        image = Image.new("L", (28, 28))
        ImageDraw.Draw(image).line([(6, 5), (20, 5 + number), (9, 24)], 255, 3)
        image.save(folder / f"digit{number}.png")
    (folder / "text.png").write_text("no image")
    noise = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (99, 99), np.uint8)).save(noise, "PNG")
    (folder / "cut.png").write_bytes(noise.getvalue()[:2000])
    Image.new("L", (300, 40)).save(folder / "strip.png")
    for number in range(40):
        split = "train" if number % 4 else "validation"
        path = folder / "photographs" / split / ("cat", "dog", "eel")[number % 3]
        path.mkdir(parents=True, exist_ok=True)
        size = 40 + number % 5, 44 + number % 7, 3
        low = rng.integers(0, 255, (5, 5, 3), np.uint8)
        image = Image.fromarray(low).resize(size[:2], Image.Resampling.BICUBIC)
        image.save(path / f"{number:02}.{('jpg', 'png')[number % 2]}")
    (folder / "photographs/train/cat/03.png").write_bytes(b"cut")  # it is replaced
    shutil.copy(folder / "digit0.png", folder / "stray/cat/a.png")
    shutil.copy(folder / "digit0.png", folder / "stray/b.png")
    shutil.copy(folder / "digit0.png", folder / "classless/b.png")
    (folder / "missing.csv").write_text("a.png,0\n")
    (folder / "gap.csv").write_text("digit0.png,0\ndigit1.png,2\n")


def spoil_runs(tmp):
    """Copies of runs: some as they are, some in which something is wrong."""

    def copy(name, run="modern"):
        path = tmp / "spoilt" / name
        shutil.copytree(tmp / run, path)
        return path

    def changed(name, section, values):
        path = copy(name) / "config.json"
        config = json.loads(path.read_text())
        config[section] |= values
        path.write_text(json.dumps(config))

    for run in ("modern", "map", "folder"):
        copy(run, run)
    changed("model", "model", {"name": "resnet20"})
    changed("shape", "dataset", {"image_size": 36})
    changed("field", "model", {"neme": "lenet5"})
    for name, file in (
        ("config", "config.json"),
        ("dataset", "dataset.json"),
        ("preprocessing", "preprocessing.json"),
        ("metrics", "metrics.jsonl"),
    ):
        (copy(name) / file).write_text("{")
    (copy("statistics", "mean_image") / "statistics.npz").write_bytes(b"PK cut")
    (copy("empty") / "config.json").write_text("")
    shutil.rmtree(copy("nothing") / "checkpoints")
    for name, steps in (("flipped", (30,)), ("damaged", (20, 30))):
        path = copy(name) / "checkpoints"
        for step in steps:
            meta = path / str(step) / "meta" / "metadata"
            meta.write_text(meta.read_text().replace("float32", "float64", 1))
