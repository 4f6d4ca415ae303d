"""Claims that count: their numbers against those of the papers' tables."""

import pytest

import models
from claims import fully_convolutional, inception_reductions, sixty_million


def test_inception_modules_with_and_without_reductions():
    numbers = inception_reductions.count()
    modules = numbers["modules"]
    assert len(modules) == 9
    # Table 1 has 128, 304, 73, 88, 100, 119 and 170 millions up to 4e, 71 for 5b.
    stated = {"3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119}
    for name, millions in (stated | {"4e": 170, "5b": 71}).items():
        found = modules[f"inception_{name}"]["reduced"] / 1e6
        assert found == pytest.approx(millions, abs=1)
    # Figure 2 (a) on 28x28 positions of 192 maps.
    naive = 28 * 28 * 192 * (64 + 9 * 128 + 25 * 32)
    assert modules["inception_3a"] == {"naive": naive, "reduced": 128_049_152}
    assert numbers["multiply_adds"]["reduced"] == 1_582_671_872
    assert numbers["parameters"]["reduced"] == 6_998_552
    whole = inception_reductions.ratio(numbers["multiply_adds"])
    assert whole > max(map(inception_reductions.ratio, modules.values())) > 2


def test_the_price_of_36_windows():
    model = models.create("vgg16", num_classes=1000)
    found = fully_convolutional.multiply_adds(model, 224, 384, 36)
    # The convolutions' and the three last layers' multiply-adds on 224x224 pixels.
    head = 25_088 * 4096 + 4096 * 4096 + 4096 * 1000
    convolutions = 15_470_264_320 - head
    assert found == {
        "windows": 36 * 15_470_264_320,
        "slid": convolutions * 12**2 // 7**2 + 36 * head,
        "one window": 15_470_264_320,
    }
    assert found["windows"] / found["slid"] == pytest.approx(11.2, abs=0.1)


def test_the_tables_of_four_networks():
    numbers = sixty_million.tables()
    assert numbers["parameters"] == {
        "alexnet": 60_965_224,
        "vgg16": 138_357_544,
        "googlenet": 6_998_552,
        "resnet152": 60_192_808,
    }
    assert numbers["top5"]["alexnet"] - numbers["top5"]["resnet152"] > 10
    costs = numbers["multiply_adds"]
    assert costs["vgg16"] / costs["resnet152"] == pytest.approx(1.37, abs=0.01)
    assert costs["resnet152"] / costs["alexnet"] == pytest.approx(15.6, abs=0.05)
