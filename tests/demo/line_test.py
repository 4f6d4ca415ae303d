"""Table, chart and claims of the page are those of comparison and claims."""

import re

from claims.harness import catalogue
from comparison import __main__ as comparison
from comparison.published import PUBLISHED
from demo import line


def test_every_network_has_a_row_with_its_paper():
    found = line.networks()
    assert [row["texts"][0] for row in found["rows"]] == list(PUBLISHED)
    for row in found["rows"]:
        assert len(row["values"]) == len(row["texts"]) == len(found["columns"])
        assert len(row["paper"]) > 3 and "http" not in row["paper"], row["paper"]
        assert row["family"] in found["colours"]
    assert line.paper("resnet50") == "ResNet (He, Zhang, Ren, Sun, 2015)"
    assert line.paper("inception_v3").startswith("Inception-v3 (Szegedy")


def test_values_are_those_that_the_texts_show():
    for row in line.networks()["rows"]:
        named = dict(zip(comparison.HEADER, row["values"], strict=True))
        texts = dict(zip(comparison.HEADER, row["texts"], strict=True))
        assert texts["parameters"] == f"{named['parameters']:,}"
        error = named["top-1"]
        shown = "" if error is None else f"{error:.2f}"
        assert texts["top-1"].rstrip("?") == shown


def test_the_chart_has_the_networks_of_the_drawing(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "comparison.chart.draw", lambda bubbles, path: drawn.extend(bubbles)
    )
    comparison.plot(comparison.read(comparison.select([])), tmp_path / "x.png")
    rows = [row for row in line.networks()["rows"] if row["chart"]]
    assert [row["texts"][0] for row in rows] == [bubble.name for bubble in drawn]
    assert [row["parameters"] for row in rows] == [b.parameters for b in drawn]
    assert [row["single_crop"] for row in rows] == [b.single_crop for b in drawn]


def test_every_claim_is_listed_and_results_come_first():
    found = line.claims()
    assert sorted(row["name"] for row in found) == catalogue.names()
    done = [bool(row["verdict"]) for row in found]
    assert done == sorted(done, reverse=True)
    (bottleneck,) = [row for row in found if row["name"] == "bottleneck"]
    assert bottleneck["verdict"] == "arithmetic"
    assert re.search(r"16\.94", bottleneck["reason"])
    assert bottleneck["figure"] == "bottleneck-small.png" in line.figures()
