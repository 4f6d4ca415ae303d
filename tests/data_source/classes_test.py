"""Classes have names: they are sorted by one rule, and data is numbered by them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import data_source
from data_source import DataError, classes, report

OWNER = "runs/a"


def folder(root, names, size=(28, 28)):
    """Writes one image of its own grey for each class: train/<name>/0.png."""
    for number, name in enumerate(names):
        path = root / "train" / name / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", size, (10 * number,) * 3).save(path)
    return data_source.open_split(f"folder:{root}", "train")


def test_whole_numbers_are_sorted_as_numbers_in_folders_and_csv_files(tmp_path):
    split = folder(tmp_path, [str(n) for n in range(11)])
    rows = [f"train/{n}/0.png,{n}\n" for n in range(11)]
    (tmp_path / "list.csv").write_text("".join(rows))
    listed = data_source.open_split(f"csv:{tmp_path}/list.csv", "train", holdout=0.0)
    assert split.label_names == listed.label_names == tuple(map(str, range(11)))
    assert classes.in_order(["b", "10", "2"]) == ["10", "2", "b"]
    assert classes.in_order(["10", "02", "2", "1"]) == ["1", "02", "2", "10"]


def test_the_same_classes_in_another_order_are_renumbered_and_this_is_said(tiny):
    names, said = tiny.label_names[1:] + tiny.label_names[:1], []
    found = classes.numbered_as(tiny, names, OWNER, "", report=said.append)
    expected = [names.index(tiny.label_names[k]) for k in tiny.arrays()[1]]
    everything = np.arange(20)
    assert found.label_names == names and len(found) == 20
    assert found.arrays()[1].tolist() == expected
    assert found.read(everything)[1].tolist() == expected
    assert [e.label for e in found.examples(everything)] == expected
    np.testing.assert_array_equal(found.arrays()[0], tiny.arrays()[0])
    assert found.arrays()[1].dtype == tiny.arrays()[1].dtype
    assert said == [
        "note: tiny has the classes of runs/a in another order; they are numbered as "
        "there"
    ]
    assert classes.numbered_as(tiny, tiny.label_names, OWNER, "") is tiny


def test_examples_without_labels_stay_without(tiny):
    images, labels = tiny.arrays()
    labels[3] = -1
    names = tiny.label_names[1:] + tiny.label_names[:1]
    found = classes.numbered_as(tiny, names, OWNER, "")
    assert found.arrays()[1][3] == found.read([3])[1] == -1
    assert found.examples([3])[0].label == -1
    assert (found.arrays()[1][4:] >= 0).all()


def test_examples_without_labels_are_not_counted(tmp_path):
    split = folder(tmp_path, ["cat", "dog"])
    assert split.class_counts().tolist() == [1, 1]
    split.source._files.labels[1] = -1
    assert split.class_counts() is None
    assert report.describe(split).splitlines()[1] == "  train: 2 images"


def test_a_file_that_is_gone_keeps_its_class(tmp_path):
    split = folder(tmp_path, ["cat", "dog"])
    split = classes.numbered_as(split, ("dog", "cat"), OWNER, "")
    (tmp_path / "train/cat/0.png").unlink()
    with pytest.raises(data_source.UnreadableFile) as error:
        split.examples([0])
    assert error.value.example.label == 1


@pytest.mark.parametrize(
    ("own", "names", "message"),
    [
        (
            ("ant", "cat", "dog"),
            ("cat", "dog", "owl"),
            "here ant, cat, dog; there cat, dog, owl; only here ant; only there owl",
        ),
        (("cat", "dog"), ("cat", "dog", "owl"), "here cat, dog; there cat, dog, owl"),
        (("a", "a", "b"), ("b", "a", "a"), "here a, a, b; there b, a, a"),
        (
            tuple(f"n{k}" for k in range(1000)),
            tuple(f"n{k}" for k in range(999)),
            r"here n0, n1, n2, n3, n4, n5 and 994 more.*only here n999",
        ),
    ],
)
def test_other_classes_are_refused_with_both_lists(tiny, own, names, message):
    split = dataclasses.replace(tiny, label_names=own)
    with pytest.raises(DataError, match=message) as error:
        classes.numbered_as(split, names, OWNER, "do this")
    text = str(error.value)
    assert text.startswith("tiny has other classes than runs/a: ")
    assert text.endswith("; do this") and "\n" not in text and len(text) < 400


def test_a_subset_is_taken_only_when_it_is_asked_for(tiny):
    names, said = ("aphid", *tiny.label_names), []
    found = classes.numbered_as(tiny, names, OWNER, "", subset=True, report=said.append)
    assert found.label_names == names
    np.testing.assert_array_equal(found.arrays()[1], tiny.arrays()[1] + 1)
    assert said == ["note: tiny has 3 of the 4 classes"]
    more = dataclasses.replace(tiny, label_names=("ant", "bee", "emu"))
    with pytest.raises(DataError, match="only here emu"):
        classes.numbered_as(more, names, OWNER, "", subset=True)
