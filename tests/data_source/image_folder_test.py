"""Data sets of image files: what is found, in which order, and what is refused."""

import csv
import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import data_source
from data_source import DataError, image_folder, open_split


def encoded(number, kind="PNG"):
    """A small image of a size and a colour of its own."""
    image = Image.new("RGB", (4 + number % 5, 3 + number % 7), (number % 256, 7, 9))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write(root, paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(number))


def names(split):
    return [example.name for example in split.examples(range(len(split)))]


def labelled(split):
    return [(e.name, e.label) for e in split.examples(range(len(split)))]


@pytest.fixture
def photographs(tmp_path):
    """Two classes, three training and two validation images, one in a sub-folder."""
    paths = [
        "train/dog/b.jpg",
        "train/cat/z.PNG",
        "train/dog/2010/a.webp",
        "validation/dog/c.JPEG",
        "validation/cat/d.bmp",
    ]
    write(tmp_path, paths)
    return tmp_path


@pytest.fixture
def flat(tmp_path):
    """Three hundred images in two class folders, without splits."""
    paths = [f"{'ant' if i % 3 else 'bee'}/{i:03}.png" for i in range(300)]
    write(tmp_path, paths)
    return tmp_path


def test_folders_of_splits_and_classes(photographs):
    train = open_split(f"folder:{photographs}", "train")
    assert train.label_names == ("cat", "dog") and train.num_classes == 2
    assert train.image_shape == (None, None, 3)
    assert labelled(train) == [
        ("train/cat/z.PNG", 0),
        ("train/dog/2010/a.webp", 1),
        ("train/dog/b.jpg", 1),
    ]
    validation = open_split(f"folder:{photographs}", "auto")
    assert validation.split == "validation"
    assert labelled(validation) == [
        ("validation/cat/d.bmp", 0),
        ("validation/dog/c.JPEG", 1),
    ]
    assert data_source.describe(f"folder:{photographs}") == ((None, None, 3), 2)


def test_examples_are_the_stored_bytes_in_the_order_asked_for(photographs):
    split = open_split(f"folder:{photographs}", "train")
    last, first = split.examples(np.array([2, 0]))
    assert last.image == (photographs / "train/dog/b.jpg").read_bytes()
    assert first.image == (photographs / "train/cat/z.PNG").read_bytes()
    assert split.examples([-1])[0].name == "train/dog/b.jpg"
    with pytest.raises(IndexError):
        split.examples([3])


def test_a_test_folder_is_what_auto_falls_back_to(photographs):
    (photographs / "validation").rename(photographs / "test")
    assert open_split(f"folder:{photographs}", "auto").split == "test"
    (photographs / "test").rename(photographs / "val")
    split = open_split(f"folder:{photographs}", "validation")
    assert names(split) == ["val/cat/d.bmp", "val/dog/c.JPEG"]


def test_other_files_are_not_images(photographs):
    for name in (".hidden.jpg", "Thumbs.db", "list.txt"):
        (photographs / "train/dog" / name).write_bytes(b"")
    (photographs / "train" / ".git").mkdir()
    assert len(open_split(f"folder:{photographs}", "train")) == 3


def test_the_order_is_not_that_of_the_file_system(flat, monkeypatch):
    before = names(open_split(f"folder:{flat}", "train"))
    assert before == sorted(before)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = list(scandir(path))[::-1]

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert names(open_split(f"folder:{flat}", "train")) == before


def test_files_without_splits_are_held_out_by_their_names(flat):
    train = open_split(f"folder:{flat}", "train")
    validation = open_split(f"folder:{flat}", "auto")
    assert validation.split == "validation"
    every = {str(p.relative_to(flat)) for p in flat.rglob("*.png")}
    assert set(names(train)) | set(names(validation)) == every
    assert len(train) + len(validation) == 300
    # Binomial(300, 0.1): 30 with a deviation of 5.2; four of these.
    assert 9 < len(validation) < 51
    kept = set(names(validation))
    more = set(names(open_split(f"folder:{flat}", "validation", holdout=0.3)))
    assert kept < more and 58 < len(more) < 122
    assert len(open_split(f"folder:{flat}", "train", holdout=0.0)) == 300
    with pytest.raises(DataError, match="holds no examples"):
        open_split(f"folder:{flat}", "validation", holdout=0.0)
    # Others that come or go, and another place, move none of them.
    shutil.rmtree(flat / "bee")
    write(flat, [f"cow/{i}.png" for i in range(9)])
    moved = flat.rename(flat.with_name("elsewhere"))
    now = set(names(open_split(f"folder:{moved}", "validation")))
    assert {n for n in now if n[:3] == "ant"} == {n for n in kept if n[:3] == "ant"}


def test_the_hash_stays_what_it_is():
    # A change would mix the training images of yesterday's run into its validation.
    held = [i for i in range(60) if image_folder._held_out(f"ant/{i:03}.png", 0.1)]
    assert held == [20, 21, 23, 29, 30, 33, 35, 36, 50, 53, 56]


def test_slices_are_those_of_tfds_and_fair_samples(flat):
    def part(split):
        return names(open_split(f"folder:{flat}", split, holdout=0.0))

    whole = part("train")
    first, rest = part("train[:25%]"), part("train[25%:]")
    assert (len(first), len(rest)) == (75, 225)
    assert first == sorted(first) and sorted(first + rest) == whole
    # Classes are 2 to 1; hypergeometric, 50 of 75 with a deviation of 3.5.
    assert 36 < sum(name.startswith("ant") for name in first) < 64
    assert part("train[:100]") == sorted({*first, *part("train[75:100]")})
    assert part("train[-30:]") == part("train[90%:]")
    assert part("train[:10] + train[290:]") == part("train[:10]") + part("train[290:]")
    # As TFDS rounds: to the nearest.
    assert len(part("train[:33%]")) == 99 and len(part("train[:1%]")) == 3


def test_sums_of_splits(photographs):
    split = open_split(f"folder:{photographs}", "validation+train[1:]")
    assert len(split) == 4
    assert names(split)[:2] == ["validation/cat/d.bmp", "validation/dog/c.JPEG"]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", r"no split 'test': it has \['train', 'validation'\]"),
        ("trian[:10%]", r"no split 'trian\[:10%\]'"),
        ("train[:x]", "Unrecognized split format"),
        ("train[:99]", r"no split 'train\[:99\]'"),
        ("train[1:1]", "holds no examples"),
        ("", "no split ''"),
    ],
)
def test_wrong_splits(photographs, split, message):
    with pytest.raises(DataError, match=message):
        open_split(f"folder:{photographs}", split)


def test_wrong_folders(photographs):
    def refused(message, split="train", name=f"folder:{photographs}"):
        with pytest.raises(DataError, match=message):
            open_split(name, split)

    refused("nowhere cannot be listed: No such file", name="folder:/nowhere")
    refused("'folder:' lacks its path", name="folder:")
    refused("cat has no class folders", name=f"folder:{photographs}/train/cat")
    (photographs / "validation/emu").mkdir()
    write(photographs, ["validation/emu/x.jpg"])
    refused("validation/emu: train has no class 'emu'", "validation")
    open_split(f"folder:{photographs}", "train")
    shutil.rmtree(photographs / "validation/emu")
    (photographs / "train/emu").mkdir()
    refused("train/emu holds no images")
    open_split(f"folder:{photographs}", "validation")
    (photographs / "train/emu").rmdir()
    write(photographs, ["train/x.jpg"])
    refused("train/x.jpg is in no class folder")
    (photographs / "train/x.jpg").unlink()
    (photographs / "val/cat").mkdir(parents=True)
    refused("has both val")
    (photographs / "val/cat").rmdir()
    shutil.rmtree(photographs / "train")
    refused("has no train folder beside validation")


def test_unreadable_folders_and_files(photographs, monkeypatch):
    split = open_split(f"folder:{photographs}", "train")
    (photographs / "train/cat/z.PNG").unlink()
    assert split.examples([2])[0].name == "train/dog/b.jpg"
    message = "train/cat/z.PNG cannot be read: No such file or directory"
    with pytest.raises(DataError, match=message):
        split.examples([0])
    scandir = os.scandir

    def refuse(path):  # root, who may run this, is refused nothing
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="train/cat cannot be listed: Permission"):
        open_split(f"folder:{photographs}", "train")


def test_unusual_file_names(tmp_path):
    odd = ["a b/+,ä.jpg", os.fsdecode(b"a b/\xff.jpg"), "日本/1.jpg", "日本/2.jpg"]
    write(tmp_path, odd)
    split = open_split(f"folder:{tmp_path}", "train", holdout=0.0)
    assert names(split) == sorted(odd) and split.label_names == ("a b", "日本")
    assert split.examples([1])[0].image == (tmp_path / odd[1]).read_bytes()


# CSV.


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return f"csv:{path}"


def test_a_csv_of_a_folder_is_that_folder(flat):
    rows = [(p.relative_to(flat), p.parent.name) for p in flat.rglob("*.png")]
    for header in ([], [("path", "label")]):
        name = write_csv(flat / "all.csv", [*header, *rows[::-1]])
        assert data_source.describe(name) == ((None, None, 3), 2)
        for split in ("train", "auto", "train[20%:30%]"):
            here, there = open_split(name, split), open_split(f"folder:{flat}", split)
            assert labelled(here) == labelled(there)
            assert here.label_names == there.label_names == ("ant", "bee")
            assert here.examples([4]) == there.examples([4])


def test_a_csv_with_splits(photographs):
    rows = [
        ("train/dog/b.jpg", "dog", "train"),
        ("train/cat/z.PNG", "cat", "train"),
        ("validation/dog/c.JPEG", "dog", "val"),
        (photographs / "validation/cat/d.bmp", "cat", "test"),
    ]
    name = write_csv(photographs / "list.csv", [("path", "label", "split"), *rows])
    assert labelled(open_split(name, "train")) == [
        ("train/cat/z.PNG", 0),
        ("train/dog/b.jpg", 1),
    ]
    assert labelled(open_split(name, "auto")) == [("validation/dog/c.JPEG", 1)]
    (there,) = open_split(name, "test").examples([0])
    assert there.image == (photographs / "validation/cat/d.bmp").read_bytes()


def test_a_csv_with_integer_labels(tmp_path):
    write(tmp_path, [f"{i}.png" for i in range(24)])
    name = write_csv(tmp_path / "l.csv", [(f"{i}.png", i % 12) for i in range(24)])
    split = open_split(name, "train", holdout=0.0)
    # In the order of the numbers, not 0, 1, 10, 11, 2.
    assert split.label_names == tuple(map(str, range(12)))
    assert all(int(n[:-4]) % 12 == label for n, label in labelled(split))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.png,x\nb.png\n", "line 2: 'b.png' is not path,label or"),
        ("a.png,x\nb.png,x,train\n", "line 2: 'b.png,x,train' is not"),
        ("a.png\n", "line 1: 'a.png' is not path,label"),
        ("a.png,x\n\nb.png,\n", "line 3: 'b.png,' is not"),
        ("path,label\na.png,x\nc.png,x\n", "line 3: c.png is missing"),
        ("a.png,x\nno/b.png,x\n", "line 2: no/b.png is missing"),
        ("a.png,x\nb.png,x\n./a.png,y\n", "line 3: a.png is in line 1 too"),
        ("a.png,x,train\nb.png,x,dev\n", "line 2: the split 'dev' is none of train,"),
        (
            "a.png,x,train\nb.png,y,test\n",
            "line 2: no training image has the class 'y'",
        ),
        ("a.png,x,test\nb.png,y,test\n", "no line of the split train"),
        (
            "a.png,1\nb.png,2\n",
            "no training image of class 0; its labels go from 1 to 2",
        ),
        ('a.png,x\nb.png,"x\n', "cannot be read after line 1: unexpected end of data"),
        ("path,label\n", "names no images"),
        ("", "names no images"),
    ],
)
def test_wrong_csvs(tmp_path, lines, message):
    write(tmp_path, ["a.png", "b.png"])
    (tmp_path / "l.csv").write_text(lines)
    with pytest.raises(DataError, match=message) as error:
        open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)
        open_split(f"csv:{tmp_path}/l.csv", "test", holdout=0.0)
    assert "l.csv" in str(error.value)


def test_a_csv_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no.csv cannot be read after line 1: No such"):
        open_split(f"csv:{tmp_path}/no.csv", "train")
    (tmp_path / "l.csv").write_bytes(b"a.png,x\nb\xff.png,x\n")
    with pytest.raises(DataError, match="l.csv cannot be read .* decode byte 0xff"):
        open_split(f"csv:{tmp_path}/l.csv", "train")


def test_a_csv_from_a_spreadsheet(tmp_path):
    write(tmp_path, ["a.png"])
    (tmp_path / "l.csv").write_bytes("\ufeffpath,label\r\na.png , x\r\n".encode())
    split = open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)
    assert labelled(split) == [("a.png", 0)] and split.label_names == ("x",)


def test_the_share_held_out_is_a_share(flat):
    for wrong in (1.0, -0.1):
        with pytest.raises(DataError, match=r"not in \[0, 1\)"):
            open_split(f"folder:{flat}", "train", holdout=wrong)
