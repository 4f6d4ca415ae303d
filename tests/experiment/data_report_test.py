"""What a training says of its data before it starts."""

import re

import pytest
from PIL import Image

from configs import densenet, fashion_mnist, resnet50, resnet_cifar, vgg_cifar
from experiment import build, checks, data_report


def report(config, **changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    config.update_from_flattened_dict({"dataset.name": "mnist", **changes})
    checks.check(config)
    return data_report.describe(build.setup(config, num_devices=1))


def test_statistics_of_another_data_set_are_said_with_the_flags_that_mend_it():
    said = report(vgg_cifar.get_config("vgg11_cifar"))
    assert "mean and std are those of cifar10, averaged for grey images; to " in said
    flags = dict(re.findall(r"--config\.dataset\.(\w+)=(\S+)", said.replace("'", "")))
    assert flags.keys() == {"whiten", "mean", "std"}
    mended = {
        "dataset__whiten": flags["whiten"],
        "dataset__mean": eval(flags["mean"]),
        "dataset__std": eval(flags["std"]),
    }
    assert "mean and std" not in report(vgg_cifar.get_config("vgg11_cifar"), **mended)


@pytest.mark.parametrize(
    ("whiten", "mean", "std", "twice"),
    [
        ("channels", (0.0,), (255.0,), True),  # mean and std of default.py
        ("channels", (0.0,), (1.0,), False),
        ("gcn_zca", (0.0,), (1.0,), False),
        ("gcn", (33.0,), (1.0,), True),
        ("mean_image", (0.0,), (255.0,), False),
        ("mean_image", (33.0,), (1.0,), True),
    ],
)
def test_images_that_are_normalised_twice_are_said(whiten, mean, std, twice):
    changes = {"dataset__whiten": whiten, "dataset__mean": mean, "dataset__std": std}
    said = report(fashion_mnist.get_config("lenet5_modern"), **changes)
    line = f"warning: config.dataset.whiten = '{whiten}' normalises, and then config."
    assert (line in said) == twice


def test_images_that_are_trained_on_and_evaluated_are_counted(tmp_path):
    config = fashion_mnist.get_config("lenet5_modern")
    said = report(config, dataset__eval_split="train[59000:]")
    assert (
        "warning: 1,000 of the 1,000 images of config.dataset.eval_split, "
        "train[59000:], are trained on, too; config.dataset.train_split can"
    ) in said
    splits = {"dataset__train_split": "train[:59500]+train[59800:]"}
    assert "warning: 700 of the 1,000 images" in report(config, **splits)
    splits = {"dataset__train_split": "train[:59000]"}
    assert "trained on" not in report(config, **splits)
    for name, number in (("ant", 3), ("bee", 5)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(number):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    changes = {
        "dataset__name": f"folder:{tmp_path}/photos",
        "dataset__train_split": "train[:4]",
        "dataset__eval_split": "train[2:]",
        "dataset__image_size": 32,
        "batch_size": 2,
    }
    assert "warning: 2 of the 4 images" in report(config, **changes)
    changes |= {"dataset__cache": "pixels", "dataset__cache_dir": f"{tmp_path}/cache"}
    assert "warning: 2 of the 4 images" in report(config, **changes)
    changes |= {"dataset__train_split": "train", "dataset__eval_split": "validation"}
    assert "trained on" not in report(config, **changes)


def test_statistics_that_move_in_frozen_layers_are_said():
    config = fashion_mnist.get_config("lenet5_modern")
    changes = {"model__name": "tiny_networks:Tiny", "augment__crop": 0}
    frozen = {"optimizer__rate_factors": (("conv1", 0), ("backbone", 0.0))}
    said = "freezes the parameters of backbone/bn1, but not their batch statistics; con"
    assert said in report(config, **changes, **frozen)
    changes |= frozen
    changes |= {"init_from": "another run", "model__frozen_statistics": True}
    assert "batch statistics" not in report(config, **changes)
    changes["model__frozen_statistics"] = False
    for factors in ((("conv1", 0),), (("backbone", 0.5),), ()):
        changes["optimizer__rate_factors"] = factors
        assert "batch statistics" not in report(config, **changes)


def test_a_short_side_from_which_nothing_is_cut_is_said():
    said = "dataset.short_side = 40 changes nothing without fit crop"
    config = fashion_mnist.get_config("lenet5_modern")
    assert said in report(config, dataset__short_side=40)
    crop = {"dataset__fit": "crop", "dataset__image_size": 32}
    assert said not in report(config, **crop)


def test_one_channel_is_not_said_to_be_averaged():
    said = report(fashion_mnist.get_config("lenet5_modern"))
    assert "mean and std are those of fashion_mnist; to have" in said


@pytest.mark.parametrize(
    "changes", [{"init_from": "another run"}, {"dataset__mean": (33.0,)}]
)
def test_statistics_that_were_chosen_are_not_doubted(changes):
    changes.setdefault("dataset__std", densenet.get_config().dataset.std)
    config = vgg_cifar.get_config("vgg11_cifar")
    assert "mean and std" not in report(config, **changes)


def test_imagenets_statistics_are_usual_for_photographs(tmp_path):
    for split in ("train", "validation"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / split / name / "a.png")
    config, changes = resnet50.get_config("resnet18"), {"batch_size": 2}
    changes |= {"num_epochs": 1.0, "dataset.name": f"folder:{tmp_path}"}
    assert "mean and std" not in report(config, **changes)
    config = vgg_cifar.get_config("vgg11_cifar")
    assert "mean and std are those of cifar10; to have" in report(config, **changes)


def test_changes_at_or_after_the_end_of_a_training_are_said():
    """Steps are a recipe's, and boundaries are in epochs of whatever batch there is."""
    tiny = {"model__name": "tiny_networks:Pooled"}
    assert "changes there" not in report(resnet_cifar.get_config(), **tiny)
    said = report(resnet_cifar.get_config(), **tiny, batch_size=64)
    assert said.count("changes there") == 1
    assert (
        "warning: config.schedule.boundaries: epoch 81.92 is step 76,800, epoch 122.88 "
        "is step 115,200, and the training ends at step 64,000, so nothing changes"
    ) in said
    unfreeze = (("Dense", 150.0), ("Conv", 10.0))
    said = report(
        densenet.get_config(), **tiny, num_epochs=150.0, optimizer__unfreeze=unfreeze
    )
    assert "warmup_epochs" not in said
    at = "epoch 150 is step 140,625, {}and the training ends at step 140,625,"
    later = "epoch 225 is step 210,938, "
    assert f"warning: config.schedule.boundaries: {at.format(later)}" in said
    assert f"warning: config.optimizer.unfreeze: {at.format('')}" in said


def test_a_warm_up_that_outlasts_the_training_is_said():
    length = {"num_steps": 30, "schedule__name": "cosine"}
    said = report(fashion_mnist.get_config("lenet5_modern"), **length)
    at = "epoch 0.5 is step 234, and the training ends at step 30"
    assert f"warning: config.schedule.warmup_epochs: {at}" in said
    said = report(fashion_mnist.get_config("lenet5_modern"), batch_size=60_000)
    words = "epoch 0.5 is less than half a step"
    assert f"warning: config.schedule.warmup_epochs: {words}" in said
    length["num_steps"] = 300
    assert "warmup" not in report(fashion_mnist.get_config("lenet5_modern"), **length)


@pytest.mark.parametrize(
    ("decay", "every", "steps", "share"),
    [
        (0.9999, 1, 1_875, "83%"),
        (0.99, 100, 99, "100%"),  # no update at all
        (0.99, 1, 300, None),
        (0.0, 100, 99, None),
    ],
)
def test_an_average_of_mostly_initial_weights_is_said(decay, every, steps, share):
    average = {"optimizer__ema_decay": decay, "optimizer__ema_every": every}
    config = fashion_mnist.get_config("lenet5_modern")
    said = report(config, num_steps=steps, **average)
    assert ("Polyak average" in said) == (share is not None)
    if share:
        line = f"after the {steps:,} steps of this training the Polyak average, with "
        assert f"warning: {line}which it is evaluated, still has {share} of" in said


def test_an_interpolation_that_policies_do_not_have_is_said():
    config = fashion_mnist.get_config("lenet5_modern")
    changes = {"augment__policy": "trivialaugment"}
    said = "  augment.policy moves images bicubically, because PIL cannot do it by "
    assert said not in report(config, **changes, augment__interpolation="nearest")
    for name in ("lanczos", "random"):
        line = f"{said}augment.interpolation = '{name}'"
        assert line in report(config, **changes, augment__interpolation=name)


def test_fields_that_change_nothing_are_said():
    config = fashion_mnist.get_config("lenet5_modern")
    assert "changes nothing" not in report(config)
    changes = {
        "augment__policy": "trivialaugment",
        "augment__policy_magnitude": 5.0,
        "dataset__cache_dir": "cache",
        "dataset__placement": "host",
        "init_layers": ("C1",),
        "optimizer__ema_every": 9,
        "schedule__boundaries": (1.0,),
        "schedule__factors": (0.1,),
        "schedule__patience": 2,
        "steps_per_dispatch": 7,
    }
    said = report(config, **changes)
    for line in (
        "init_layers = ('C1',) changes nothing without init_from",
        "augment.policy_magnitude = 5.0 changes nothing without augment.policy = "
        "randaugment or randaugment_timm",
        "schedule.boundaries = (1.0,) changes nothing without schedule.name = step",
        "steps_per_dispatch = 7 changes nothing with data from the host",
    ):
        assert f"\n  {line}\n" in said
    assert said.count("changes nothing") == 8
    changes = {
        "augment__policy": "randaugment",
        "optimizer__ema_decay": 0.9,
        "schedule__name": "plateau",
        "steps_per_dispatch": 1,
    }
    assert report(config, **changes).count("changes nothing") == 4
