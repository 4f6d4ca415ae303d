"""Rules and figures of claims about trained or whole networks, on made-up numbers."""

import io

import pytest
from matplotlib.figure import Figure

from claims import inception_reductions, sixty_million
from claims.harness import catalogue, intervals


def population(error, other):
    """Errors with moving averages 0.9 and 0.99, against 9 % by the population."""
    errors = {"0.9, moving": error, "0.99, moving": other}
    errors |= dict.fromkeys(("0.9, population", "0.99, population"), [9.0, 9.0, 9.0])
    return {"errors": errors}


def heads(gradients, errors):
    """With side heads the gradients are `gradients` times as large."""
    names = "with side heads", "without"
    return {
        "gradients": dict(zip(names, (gradients, [1.0, 1.0, 1.0]), strict=True)),
        "errors": dict(zip(names, (errors, [20.0, 20.1, 20.2]), strict=True)),
        "curves": {name: {"epochs": [1, 2], "runs": [[50, 40]]} for name in names},
    }


def views(one, ten, thirty, ensemble):
    """Errors of three runs near these numbers."""
    errors = {"1 view": one, "10 views": ten, "30 views": thirty, "whole images": 9}
    errors = {name: [error, error + 0.1, error - 0.1] for name, error in errors.items()}
    return {"errors": errors, "ensembles": dict.fromkeys(errors, ensemble)}


def precision(features, codes, pixels, codes_of_pixels):
    rows = {
        "features": features,
        "codes": codes,
        "pixels": pixels,
        "codes of pixels": codes_of_pixels,
    }
    return {
        "precision": {name: [n, n + 0.1, n - 0.1] for name, n in rows.items()},
        "seconds": dict.fromkeys(rows, 1e-3),
    }


def slid(equal=1e-6, positions="6x6", windows=100):
    return {
        "positions": positions,
        "differences": {
            "head on parts of the map": equal,
            "maps within": 1e-6,
            "cut out": 0.2,
        },
        "multiply_adds": {"windows": windows, "slid": 10, "one window": 3},
        "seconds": {"windows": 9.0, "slid": 1.0, "one window": 0.3},
    }


def reductions(whole, least):
    two = {"naive": 3.0, "reduced": 1.0}
    return {
        "modules": {
            "inception_3a": {"naive": 500, "reduced": 100},
            "inception_3b": {"naive": least, "reduced": 100},
        },
        "multiply_adds": {"naive": whole, "reduced": 100},
        "parameters": two,
        "seconds": two,
        "memory": two,
    }


def towers(*chance):
    shares = [[0.1, 0.2, 0.7, 0.8]] * len(chance)
    return {"chance": list(chance), "shares": shares}


def four(seconds, memory, **others):
    """The tables, and a step of AlexNet, VGG-16, GoogLeNet and ResNet-152."""
    found = sixty_million.tables() | others
    for name, values in {"seconds": seconds, "memory": memory}.items():
        found[name] = dict(zip(sixty_million.NAMES, values, strict=True))
    return found


TABLES = {
    "parameters": dict(zip(sixty_million.NAMES, (9, 9, 9, 9), strict=True)),
    "multiply_adds": dict(zip(sixty_million.NAMES, (9, 9, 9, 9), strict=True)),
    "top5": dict(zip(sixty_million.NAMES, (9, 9, 9, 9), strict=True)),
}
REPRODUCED, DIRECTION, INVISIBLE, CONTRADICTED, ARITHMETIC = intervals.WORDS
MADE_UP = [
    ("population_statistics", population([9, 8.5, 9.5], [9, 9.01, 9]), REPRODUCED),
    ("population_statistics", population([9, 9, 9], [9.3, 9.3, 9.31]), CONTRADICTED),
    ("population_statistics", population([9, 9, 9], [9, 8.9, 9.1]), INVISIBLE),
    ("auxiliary_heads", heads([3, 3.1, 2.9], [19, 19.1, 19.2]), REPRODUCED),
    ("auxiliary_heads", heads([1.05, 1.05, 1.05], [19, 19.1, 19.2]), DIRECTION),
    ("auxiliary_heads", heads([3, 3.1, 2.9], [21, 20, 19]), INVISIBLE),
    ("auxiliary_heads", heads([3, 3.1, 2.9], [22, 22.1, 22.2]), CONTRADICTED),
    ("auxiliary_heads", heads([0.5, 0.5, 0.5], [19, 19.1, 19.2]), CONTRADICTED),
    ("multi_view", views(12, 11, 10, 8), REPRODUCED),
    ("multi_view", views(12, 11, 11, 8), INVISIBLE),
    ("multi_view", views(12, 11, 12, 8), CONTRADICTED),
    ("multi_view", views(12, 11, 10, 11), CONTRADICTED),
    ("features", precision(60, 58, 25, 20), REPRODUCED),
    ("features", precision(60, 36, 25, 20), DIRECTION),  # codes keep 60 %
    ("features", precision(60, 58, 25, 58), INVISIBLE),
    ("features", precision(20, 19, 25, 15), CONTRADICTED),
    ("fully_convolutional", slid(), ARITHMETIC),
    ("fully_convolutional", slid(equal=1e-3), CONTRADICTED),
    ("fully_convolutional", slid(positions="5x5"), CONTRADICTED),
    ("fully_convolutional", slid(windows=99), CONTRADICTED),
    ("inception_reductions", reductions(200, 101), ARITHMETIC),
    ("inception_reductions", reductions(199, 101), CONTRADICTED),
    ("inception_reductions", reductions(200, 100), CONTRADICTED),
    ("towers_specialise", towers(0.0, 0.01, 0.04, 0.0, 0.0), REPRODUCED),
    ("towers_specialise", towers(0.0, 0.01, 0.05, 0.5, 0.9), DIRECTION),
    ("towers_specialise", towers(0.0, 0.5, 0.5, 0.5, 0.5), INVISIBLE),
    ("sixty_million", four((1, 9, 1.1, 8), (10, 9, 1, 9)), ARITHMETIC),
    ("sixty_million", four((1, 9, 3, 8), (10, 9, 30, 9)), DIRECTION),
    ("sixty_million", four((1, 2, 3, 4), (9, 9, 9, 9), **TABLES), CONTRADICTED),
]


@pytest.mark.parametrize(("name", "numbers", "word"), MADE_UP)
def test_the_rule_of_a_verdict(name, numbers, word):
    found = catalogue.load(name).verdict(numbers)
    assert found.word == word, found.reason
    assert found.here


@pytest.mark.parametrize(
    ("name", "numbers"), {name: numbers for name, numbers, _ in MADE_UP}.items()
)
def test_its_figure(name, numbers):
    figure, file = Figure(layout="constrained"), io.BytesIO()
    catalogue.load(name).figure(figure, numbers)
    figure.savefig(file)
    assert file.getbuffer().nbytes > 5000
    for axes in figure.get_axes():
        assert axes.get_ylabel()
        assert axes.has_data()
    titles = [axes.get_title() for axes in figure.get_axes()]
    assert any(titles) or figure.get_suptitle()


def test_a_sentence_that_does_not_hold_is_named():
    found = catalogue.load("sixty_million").verdict(four((1, 9, 3, 8), (10, 9, 30, 9)))
    _, false = found.reason.split("; not as stated: ")
    assert false == (
        "GoogLeNet's step takes 3.00 times as long as AlexNet's, GoogLeNet's step "
        "needs 3.00 of AlexNet's memory"
    )
    assert found.here == "7 of 9 sentences"


def test_the_module_that_reductions_matter_least_to_is_named():
    found = inception_reductions.verdict(reductions(200, 101))
    assert "inception_3b, where they matter least, 1.0 times" in found.reason
