"""Training and testing on photographs: encoded, of different sizes, some damaged."""

import io
import json
import os
import re
import signal
import subprocess

import numpy as np
import pytest
import runs
import tiny_datasets
from PIL import Image

import data_source
import evaluate
import input_pipeline
from configs import default
from errors import ConfigError
from evaluation import scoring
from experiment import build
from transforms import decode
from transforms import preprocessing as preprocessings
from transforms.policies import HostAugmentation

SIZES = [(40, 50), (64, 48), (50, 50), (33, 70)]


def jpeg(seed, height, width):
    """Smooth random colours, so that a JPEG keeps them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def photographs():
    return [jpeg(i, *SIZES[i % 4]) for i in range(20)]


@pytest.fixture
def split(tmp_path, photographs):
    return open_photographs(tmp_path, photographs)


def open_photographs(path, photographs):
    labels = np.arange(len(photographs)) % 3
    tiny_datasets.prepare(path, photographs, labels, shape=(None, None, 3))
    return data_source.open_split("tiny", "train", data_dir=path)


VIEW = preprocessings.TrainView(
    HostAugmentation(view="rescale_crop", short_side=(32, 40)),
    sizes=((0, 24), (7, 32)),
)


def batches(split, start, stop, **reading):
    plan = input_pipeline.TrainPlan(len(split), 6, seed=3)
    return list(
        input_pipeline.train_batches(split, plan, start, stop, view=VIEW, **reading)
    )


def test_batches_depend_on_seed_and_step_alone(split):
    whole = batches(split, 0, 12, num_threads=4)
    assert [b["image"].shape for b in whole[5:9]] == 2 * [(6, 24, 24, 3)] + 2 * [
        (6, 32, 32, 3)
    ]
    for start, threads in ((0, 0), (1, 1), (5, 2), (11, 3)):
        rest = batches(split, start, 12, num_threads=threads)
        for left, right in zip(whole[start:], rest, strict=True):
            tiny_datasets.assert_same(left, right)


def test_a_view_draws_from_seed_epoch_and_index(split):
    whole = tiny_datasets.concatenate(batches(split, 0, 7))  # two passes of one size
    places = whole["epoch"].tolist(), whole["index"].tolist()
    for row, (epoch, index) in enumerate(zip(*places, strict=True)):
        (example,) = split.examples([index])
        rng = np.random.default_rng((3, epoch, index, 1))
        image, target = VIEW(decode.decode(example.image, 3), example.target, rng, 0)
        np.testing.assert_array_equal(whole["image"][row], image)
        assert whole["label"][row] == target["label"]
    assert whole["label"].dtype == np.int32


def test_every_pass_crops_anew(split):
    whole = tiny_datasets.concatenate(batches(split, 0, 7))  # two passes of one size
    index, epoch = whole["index"], whole["epoch"]
    first, second = (
        whole["image"][epoch == e][np.argsort(index[epoch == e])] for e in (0, 1)
    )
    same = [np.array_equal(a, b) for a, b in zip(first, second, strict=False)]
    assert len(same) == 20 and sum(same) < 3


def test_processes_share_a_batch(split):
    whole = batches(split, 2, 5)
    parts = [
        batches(split, 2, 5, process_index=i, process_count=3, num_threads=2)
        for i in range(3)
    ]
    for step, batch in enumerate(whole):
        tiny_datasets.assert_same(
            batch, tiny_datasets.concatenate(part[step] for part in parts)
        )


def test_a_damaged_image_is_replaced_by_the_next_and_changes_no_other(
    tmp_path, photographs, split, caplog
):
    damaged = list(photographs)
    damaged[4] = damaged[4][: len(damaged[4]) // 2]
    damaged[5] = b"no image"
    other = open_photographs(tmp_path / "damaged", damaged)
    whole = tiny_datasets.concatenate(batches(split, 0, 6))
    found = tiny_datasets.concatenate(batches(other, 0, 6, damaged="replace"))
    bad = np.isin(found["index"], [4, 5])
    assert bad.sum() == 4  # 36 images of 20, the first 16 of the second pass
    for name in ("image", "label", "index", "epoch"):
        np.testing.assert_array_equal(found[name][~bad], whole[name][~bad])
    np.testing.assert_array_equal(found["label"][bad], 6 % 3)
    np.testing.assert_array_equal(found["index"][bad], whole["index"][bad])
    assert "record 4" in caplog.text and "the next image takes its place" in caplog.text
    assert len(caplog.messages) == 2  # once for each, though both were met twice
    with pytest.raises(data_source.DataError, match="record [45]"):
        batches(other, 0, 6)


def test_evaluation_fails_at_a_damaged_image(tmp_path, photographs):
    split = open_photographs(tmp_path, [*photographs[:10], b"no image"])
    view = preprocessings.Preprocessing(24, "crop", short_side=32).view((None, None, 3))
    with pytest.raises(data_source.DataError, match="record 10 is damaged"):
        list(input_pipeline.eval_batches(split, 4, view=view))


def test_a_damaged_test_image_costs_no_steps_of_a_training(tmp_path, photographs):
    photographs[7] = b"no image"
    open_photographs(tmp_path, photographs)
    changes = CHANGES | {"dataset.data_dir": str(tmp_path), "num_epochs": 1.0}
    advice = "record 7 is damaged: .*; an evaluation leaves nothing out: replace the im"
    with pytest.raises(data_source.DataError, match=advice) as error:
        runs.train_small(tmp_path / "run", **changes)
    assert str(error.value).startswith("train: ")
    _, step = runs.final_state(tmp_path / "run")
    assert step == 3
    line = runs.train_small(tmp_path / "run", **changes | {"eval.damaged": "wrong"})
    assert "20/20 images counted" in line
    run = runs.workdir.Workdir(tmp_path / "run")
    config = run.config()
    with config.unlocked():
        config.eval.damaged = "wrong"
    evaluation = evaluate.evaluate_run(run, config)
    assert line.split(" after")[0].removeprefix("done: ") in str(evaluation)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    trained = [x for x in map(json.loads, lines) if "eval/error" in x][-1]
    for name in ("error", "balanced_error", "macro_f1"):
        assert trained[f"eval/{name}"] == pytest.approx(evaluation.record[name])


def test_a_damaged_training_image_costs_no_steps_before_it(tmp_path, photographs):
    for i, data in enumerate(photographs):
        path = tmp_path / "photos" / "abc"[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    changes = CHANGES | {
        "dataset.name": f"folder:{tmp_path}/photos",
        "dataset.eval_split": "auto",
        "dataset.damaged": "fail",
        "num_epochs": 1.0,  # 3 steps
        "checkpoint.every_steps": 0,
    }
    config = runs.small_config(**changes)
    split = build.open_split(config.dataset, "train")
    index, _ = build.make_plan(config, len(split)).indices(2, 3)
    (example,) = split.examples([index[0, 0]])
    path = tmp_path / "photos" / example.name
    path.write_bytes(b"no image")
    with pytest.raises(data_source.DataError, match=f"{example.name} is damaged"):
        runs.train_small(tmp_path / "run", **changes)
    assert runs.final_state(tmp_path / "run")[1] == 2
    path.write_bytes(example.image)
    for name in ("run", "whole"):
        runs.train_small(tmp_path / name, **changes)
    resumed, whole = (runs.final_state(tmp_path / x)[0] for x in ("run", "whole"))
    runs.assert_same_bits(resumed, whole)


def test_images_in_memory_that_cannot_be_read_count_as_errors(tmp_path):
    images = np.zeros((6, 8, 8, 1), np.uint8)
    encoded = [tiny_datasets.png(image) for image in images]
    encoded[2] = b"no image"
    tiny_datasets.prepare(tmp_path, encoded, np.arange(6) % 3, shape=(8, 8, 1))
    split = data_source.open_split("tiny", "train", data_dir=tmp_path)
    with pytest.raises(data_source.DataError, match="2"):
        list(input_pipeline.eval_batches(split, 4))
    found = list(input_pipeline.eval_batches(split, 4, damaged="wrong"))
    labels = np.concatenate([batch["label"] for batch in found])
    assert labels.tolist()[:6] == [0, 1, input_pipeline.UNREADABLE - 1 - 2, 0, 1, 2]


def test_sizes_that_the_network_cannot_take_are_refused_ahead(tmp_path, split):
    changes = CHANGES | {
        "dataset.data_dir": str(tmp_path),
        "dataset.short_side": 48,
        "augment.short_side": (48, 48),
    }
    side_heads = {
        "model.name": "googlenet",
        "dataset.image_size": 80,
        "dataset.short_side": 128,
        "augment.short_side": (128, 128),
        "augment.image_sizes": ((0, 80), (2, 128)),
    }
    for change, line in (
        ({"augment.image_sizes": ((0, 28), (2, 48))}, "augment.image_sizes: .* 48x48"),
        ({"eval.image_size": 48}, "eval.image_size: .* 48x48"),
        (side_heads, "augment.image_sizes: .* 128x128 .* the side heads"),
    ):
        with pytest.raises(ConfigError, match=line):
            runs.train_small(tmp_path / "run", **changes | change)
        assert not (tmp_path / "run").exists()


def test_the_test_view_is_the_same_for_any_batch_size(split):
    view = preprocessings.Preprocessing(24, "crop", short_side=32).view((None, None, 3))
    one, many = (
        tiny_datasets.concatenate(input_pipeline.eval_batches(split, size, view=view))
        for size in (1, 7)
    )
    assert many["mask"].sum() == 20
    np.testing.assert_array_equal(one["image"], many["image"][:20])
    np.testing.assert_array_equal(one["image"].shape, (20, 24, 24, 3))


def test_a_folder_of_odd_names_from_training_to_prediction(tmp_path, capsys):
    """Names that are no UTF-8 or no formula; images of all sizes without a fit."""
    for i in range(12):
        folder = os.fsdecode((b"a$b_{$", b"\xe9t\xe9")[i % 2])
        path = tmp_path / "photos" / folder / os.fsdecode(b"\xff%d.jpg" % i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i, *SIZES[i % 4]))
    (path.parent / "a.heic").write_bytes(b"")
    changes = {
        "dataset.name": f"folder:{tmp_path}/photos",
        "dataset.train_split": "train",
        "dataset.eval_split": "auto",
        "dataset.image_size": 28,
        "batch_size": 5,
        "num_epochs": 1.0,
        "augment.crop": 0,
    }
    line = runs.train_small(tmp_path / "run", **changes)
    assert "validation error" in line and "2/2 images counted" in line
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"data: folder:{tmp_path}/photos, 2 classes")
    assert lines[start + 1 : start + 6] == [
        "  train: 10 images, 5 of each class",
        "  validation: 2 images, 1 of each class",
        "  validation was held out: 0.1 of each class",
        "  files not read: 1 .heic",
        "  chosen by auto: eval_split validation, fit resize (images "
        "that are not 28x28), placement host",
    ]
    run = f"--workdir={tmp_path}/run"
    result = runs.call_main(["--mode=evaluate", run])
    assert result.returncode == 0, result.stderr
    assert "confusion-2.png" in result.stdout and "WARNING" not in result.stderr
    table = (tmp_path / "run/classes-2.csv").read_text()
    assert "\\xe9t\\xe9,1," in table and "a$b_{$,1," in table
    images = f"--images={tmp_path}/photos/*/*.jpg"
    result = runs.call_main(["--mode=predict", run, images])
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    assert len(lines) == 12 and "panel: " in last
    found = scoring.read(tmp_path / "run/predictions-2.npz")
    answers = dict(line.split(":  ") for line in lines)
    lines = [f"  {answers[f'{tmp_path}/photos/{name}']}" for name in found.id]
    runs.assert_answers(lines, found, range(2))


def test_an_image_that_has_the_size_needs_no_fit(photographs):
    preprocessing = build.make_preprocessing(
        runs.small_config(dataset__image_size=50), (None, None, 3)
    )
    view = preprocessing.view((None, None, 3))
    image = decode.decode(photographs[2], 3)
    np.testing.assert_array_equal(view(image), image)
    assert view(decode.decode(photographs[0], 3)).shape == (50, 50, 3)


@pytest.mark.parametrize("view", ["", "inception_crop"])
def test_resized_images_may_be_larger_than_crops_are_cut_from(photographs, view):
    """Without fit "crop", nothing is cut from the 256 pixels of dataset.short_side."""
    config = runs.small_config(
        dataset__name="folder:photos", dataset__image_size=299, augment__view=view
    )
    preprocessing, train_view = build.make_view(config, (None, None, 3), 10)
    assert build.input_shape(preprocessing, (None, None, 3)) == (299, 299, 3)
    image = decode.decode_lazily(photographs[0], 3)
    image, _ = train_view(image, {}, np.random.default_rng(0), 0)
    assert image.shape == (299, 299, 3)


def test_preprocessing_of_images_that_differ_in_size():
    config = default.get_config()
    with pytest.raises(ConfigError, match="say config.dataset.image_size"):
        build.make_preprocessing(config, (None, None, 3))
    config.dataset.image_size = 24
    for name in ("mnist", "folder:photos"):  # as an earlier cache made them of one size
        config.dataset.name = name
        sizes = {None: "resize", 20: "pad" if name == "mnist" else "resize"}
        for side, fit in sizes.items():
            assert build.make_preprocessing(config, (side, side, 3)).fit == fit
    config.dataset.fit = "pad"
    with pytest.raises(ConfigError, match="cannot be padded: set fit"):
        build.make_preprocessing(config, (None, None, 3))
    config.dataset.fit = "crop"
    config.eval.image_size, config.eval.short_side = 32, 40
    training = build.make_preprocessing(config, (None, None, 3), training=True)
    testing = build.make_preprocessing(config, (None, None, 3))
    assert (training.image_size, training.short_side) == (24, 256)
    assert (testing.image_size, testing.short_side) == (32, 40)
    assert build.input_shape(testing, (None, None, 3)) == (32, 32, 3)


CHANGES = {
    "dataset.name": "tiny",
    "dataset.train_split": "train",
    "dataset.eval_split": "train",
    "dataset.image_size": 28,
    "dataset.fit": "crop",
    "dataset.short_side": 32,
    "augment.view": "rescale_crop",
    "augment.short_side": (32, 40),
    "augment.crop": 0,
    "augment.flip": True,
    "batch_size": 6,
    "num_epochs": 4.0,  # 13 steps
    "checkpoint.every_steps": 2,
    "log.every_steps": 1,
}


@pytest.mark.slow
def test_training_goes_on_in_the_middle_of_an_epoch_with_the_same_bits(tmp_path, split):
    changes = CHANGES | {"dataset.data_dir": str(tmp_path)}
    line = runs.train_small(tmp_path / "whole", dataset__num_threads=1, **changes)
    assert "20/20 images counted" in line
    with pytest.raises(runs.train.Preempted, match="stopped at step"):
        runs.train_small(
            tmp_path / "run", stop=runs.StopAfter(7), dataset__num_threads=3, **changes
        )
    _, step = runs.final_state(tmp_path / "run")
    assert 0 < step < 13 and 6 * step % 20 != 0  # images of an epoch
    runs.train_small(tmp_path / "run", dataset__num_threads=2, **changes)
    whole, found = (runs.final_state(tmp_path / name) for name in ("whole", "run"))
    assert whole[1] == found[1] == 13
    runs.assert_same_bits(whole[0], found[0])


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_it_ends_in_the_same_bits(tmp_path, split):
    changes = CHANGES | {"dataset.data_dir": str(tmp_path), "num_epochs": 30.0}
    changes |= {"dataset.num_threads": 1, "eval.every_epochs": 0.0}

    def command(name, **more):
        flags = ("--config=configs/lenet5.py:modern", f"--workdir={tmp_path / name}")
        return runs.command(*flags, **changes | more)

    result = runs.run_main(command("whole"))
    assert result.returncode == 0, result.stderr
    kills, lines = [17, 48, 71], []
    while kills:
        threads = {"dataset.num_threads": len(kills) + 1}
        with subprocess.Popen(
            command("run", **threads),
            cwd=runs.ROOT,
            env=runs.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as child:
            for line in child.stdout:
                lines.append(line)
                if re.match(f"step +{kills[0]}/100", line):
                    child.kill()
                    break
        assert child.returncode == -signal.SIGKILL, "".join(lines)
        kills.pop(0)
    result = runs.run_main(command("run"))
    assert result.returncode == 0 and "resuming from step" in result.stdout
    whole, found = (runs.final_state(tmp_path / name) for name in ("whole", "run"))
    assert whole[1] == found[1] == 100
    runs.assert_same_bits(whole[0], found[0])


@pytest.mark.parametrize(
    "whiten",
    ["mean_image", "channels", pytest.param("gcn_zca", marks=pytest.mark.slow)],
)
def test_statistics_of_the_training_images_are_kept_with_the_run(
    tmp_path, split, whiten
):
    changes = CHANGES | {
        "dataset.data_dir": str(tmp_path),
        "dataset.whiten": whiten,
        "dataset.mean": (0.0,),
        "dataset.std": (1.0,),
        "num_epochs": 1.0,
    }
    line = runs.train_small(tmp_path / "run", **changes)
    run = runs.workdir.Workdir(tmp_path / "run")
    found = run.read_arrays("statistics.npz")
    view = preprocessings.Preprocessing(28, "crop", short_side=32).view((None, None, 3))
    batches = input_pipeline.eval_batches(split, 20, view=view)
    images = next(iter(batches))["image"]
    if whiten == "mean_image":
        np.testing.assert_allclose(found["mean"], images.mean(0), rtol=1e-6)
    elif whiten == "channels":
        for name in ("mean", "std"):
            exact = getattr(images, name)((0, 1, 2), dtype=np.float64)
            np.testing.assert_allclose(found[name][0, 0], exact, rtol=1e-6)
    else:
        assert found["whiten"].shape == (2352, 2352)
    again = str(evaluate.evaluate_run(run, run.config()))
    assert line.split(" after")[0].removeprefix("done: ") in again
    (tmp_path / "run" / "statistics.npz").write_bytes(b"cut")
    with pytest.raises(runs.workdir.WorkdirError, match="npz is damaged"):
        evaluate.evaluate_run(run, run.config())


@pytest.mark.parametrize("kind", ["pixels", "resized"])
def test_training_from_a_cache(tmp_path, split, kind):
    changes = CHANGES | {
        "dataset.data_dir": str(tmp_path),
        "dataset.cache": kind,
        "dataset.cache_dir": str(tmp_path / "cache"),
        "dataset.cache_side": 32,
        "augment.short_side": (32, 32),
        "num_epochs": 1.0,
    }
    line = runs.train_small(tmp_path / "run", **changes)
    assert "20/20 images counted" in line
    assert (tmp_path / "cache" / f"tiny-train-{kind}-32" / "examples").exists()
    if kind == "pixels":  # the test view is that of the originals, to the bit
        run = runs.workdir.Workdir(tmp_path / "run")
        config = run.config()
        with config.unlocked():
            config.dataset.cache = ""
        again = str(evaluate.evaluate_run(run, config))
        assert line.split(" after")[0].removeprefix("done: ") in again
