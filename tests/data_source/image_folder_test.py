"""Data sets of image files: what is found, in which order, and what is refused."""

import csv
import io
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import data_source
from data_source import DataError, image_folder, open_split, report


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
        "train/dog/2010/a.avif",
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
        ("train/dog/2010/a.avif", 1),
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
    shutil.rmtree(photographs / "val")
    message = r"has only the split train: .*eval_split = 'train\[90%:\]'"
    with pytest.raises(DataError, match=message):
        open_split(f"folder:{photographs}", "auto")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "valid", "test"),
        ("Training", "dev", "TESTING"),
        ("TRAIN", "Val", "testing"),
    ],
)
def test_splits_have_their_usual_names(photographs, train, validation, test):
    write(photographs, ["test/cat/e.png"])
    (photographs / "train").rename(photographs / train)
    (photographs / "validation").rename(photographs / validation)
    (photographs / "test").rename(photographs / test)
    name = f"folder:{photographs}"
    assert len(open_split(name, "train")) == 3
    assert names(open_split(name, "auto")) == [
        f"{validation}/cat/d.bmp",
        f"{validation}/dog/c.JPEG",
    ]
    assert names(open_split(name, "test")) == [f"{test}/cat/e.png"]
    # A run of an earlier version goes on with the names that it knew.
    if validation == "valid":
        assert open_split(name, "auto", holdout_by="path").split == "test"


@pytest.mark.parametrize("folders", [("training", "testing"), ("train",)])
def test_splits_without_classes_are_no_classes(tmp_path, folders):
    write(tmp_path, [f"{folder}/{i}.png" for folder in folders for i in range(3)])
    (tmp_path / "lists").mkdir()
    with pytest.raises(DataError, match=f"{folders[0]} hold no class folders"):
        open_split(f"folder:{tmp_path}", "train")


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, [f"{name}/{i}.png" for name in ("bus", "train") for i in "ab"])
    split = open_split(f"folder:{tmp_path}", "train")
    assert split.label_names == ("bus", "train")
    write(tmp_path, ["test/a.png", "test/b.png"])
    split = open_split(f"folder:{tmp_path}", "train")
    assert split.label_names == ("bus", "test", "train")
    assert split.findings.remarks == ["read as classes, not as splits: test, train"]
    shutil.rmtree(tmp_path / "test")
    write(tmp_path, ["train/steam/c.png"])
    message = (
        "train may be a split or a class: .* beside it bus holds images. Put all "
        "classes under train, move bus elsewhere, or list"
    )
    with pytest.raises(DataError, match=message):
        open_split(f"folder:{tmp_path}", "train")


def test_what_is_beside_the_splits_is_said(photographs):
    write(photographs, ["extra/a.png", "loose.png"])
    (photographs / "validation").rename(photographs / "unlabelled")
    write(photographs, ["Test/cat/a.jpg", "val/b.jpg"])
    split = open_split(f"folder:{photographs}", "test")
    assert split.findings.remarks == [
        "read as splits: Test, train; not read: extra, unlabelled, val, images beside "
        "them (1)"
    ]


@pytest.mark.parametrize(
    ("paths", "classes", "names"),
    [
        ("a_train/a_train/{}/1.png a_test/a_test/{}/2.png", "a_test, a_train", 0),
        ("Train_set/{}/1.png Test_set/{}/x/2.png pred/1.png", "Test_set, Train_set", 0),
        ("{}/train/1.png {}/test/2.png", "cat, dog", "test, train"),
        ("{}/1.png cat/train/1.png", "cat", "train"),
        ("{}/1.png cat/a/1.png cat/b/1.png dog/b/1.png", None, None),
        ("{}/2010/1.png", None, None),
    ],
)
def test_classes_that_look_like_splits_are_said(tmp_path, paths, classes, names):
    write(tmp_path, [p.format(c) for p in paths.split() for c in ("cat", "dog")])
    found = open_split(f"folder:{tmp_path}", "train").findings.remarks
    line = f"folders of the classes {classes} have the names {names or 'cat, dog'}: are"
    assert [line in remark for remark in found] == [True] * bool(classes)


def test_data_that_is_only_tested_needs_no_training_classes(photographs):
    """The run that is tested numbers them, and says which of its classes they lack."""
    (photographs / "validation").rename(photographs / "test")
    (photographs / "train").rename(photographs / "dev")
    shutil.rmtree(photographs / "dev/cat")
    name = f"folder:{photographs}"
    with pytest.raises(DataError, match="has no train folder beside"):
        open_split(name, "test")
    assert labelled(open_split(name, "test", tested=True)) == [
        ("test/cat/d.bmp", 0),
        ("test/dog/c.JPEG", 1),
    ]
    shutil.rmtree(photographs / "test/dog")
    assert open_split(name, "test", tested=True).label_names == ("cat", "dog")
    one = open_split(f"{name}/test", "train", tested=True)
    assert one.label_names == ("cat",)
    assert report.describe(one).startswith(f"data: {name}/test, 1 class\n")
    (photographs / "l.csv").write_text("test/cat/d.bmp,3,test\ndev/dog/b.jpg,1,val")
    split = open_split(f"csv:{photographs}/l.csv", "test", tested=True)
    assert split.label_names == ("1", "3")
    assert labelled(split) == [("test/cat/d.bmp", 1)]


def test_an_only_folder_is_descended_into_and_one_class_is_an_error(tmp_path):
    paths = ["flowers/rose/a.png", "flowers/rose/b.png", "flowers/tulip/c.png"]
    write(tmp_path, [*paths, "__MACOSX/flowers/._a.png", "README.txt"])
    split = open_split(f"folder:{tmp_path}", "train", holdout=0.0)
    assert split.label_names == ("rose", "tulip")
    assert names(split) == ["rose/a.png", "rose/b.png", "tulip/c.png"]
    said = f"{tmp_path} holds only the folder flowers, which is read"
    assert split.findings.remarks == [said]
    shutil.rmtree(tmp_path / "flowers/tulip")
    (tmp_path / "flowers").rename(tmp_path / "flower")
    with pytest.raises(DataError, match="holds one class, 'rose', and two are needed"):
        open_split(f"folder:{tmp_path}/flower", "train")
    (tmp_path / "l.csv").write_text("flower/rose/a.png,rose\n")
    with pytest.raises(DataError, match="l.csv holds one class, 'rose'"):
        open_split(f"csv:{tmp_path}/l.csv", "train")


def test_other_files_are_not_images(photographs):
    for name in (".hidden.jpg", "Thumbs.db", "list.txt"):
        (photographs / "train/dog" / name).write_bytes(b"")
    (photographs / "train" / ".git").mkdir()
    assert len(open_split(f"folder:{photographs}", "train")) == 3


def test_what_other_programs_left_is_no_class(photographs):
    litter = ["@eaDir/cat@SynoEAStream.jpg", "__MACOSX/a.jpg", "lost+found/a.jpg"]
    litter += [".ipynb_checkpoints/a.jpg", "cat/._z.PNG", "cat/Thumbs.db"]
    write(photographs, [f"train/{path}" for path in litter])
    split = open_split(f"folder:{photographs}", "train")
    assert split.label_names == ("cat", "dog") and len(split) == 3
    assert split.findings.ignored == {"": {}, "train": {image_folder.HIDDEN: 6}}


def test_the_report_says_what_was_found(photographs):
    (photographs / "validation/dog").rename(photographs / "validation/emu")
    write(photographs, ["train/emu/a.png", "train/emu/b.heic", "train/emu/c"])
    write(photographs, ["train/emu/d.jp2", "train/emu/e.heic", "validation/emu/f.heic"])
    name = f"folder:{photographs}"
    splits = open_split(name, "train"), open_split(name, "auto")
    assert report.describe(*splits).splitlines() == [
        f"data: {name}, 3 classes",
        "  train: 4 images, 1 (cat) to 2 (dog) of a class",
        "  validation: 2 images, 1 of each class; none of dog",
        "  files not read: 3 .heic, 1 .jp2, 1 without extension",
    ]
    write(photographs, ["test/cat/a.png"])
    said = report.describe(open_split(name, "test")).splitlines()
    assert said[1] == "  test: 1 image, 1 of each class; none of dog, emu"


def test_the_report_of_a_held_out_part(flat):
    write(flat, ["bee/a.txt"])
    name = f"folder:{flat}"
    splits = open_split(name, "train"), open_split(name, "auto")
    assert report.describe(*splits).splitlines()[1:] == [
        "  train: 270 images, 90 (bee) to 180 (ant) of a class",
        "  validation: 30 images, 10 (bee) to 20 (ant) of a class",
        "  validation was held out: 0.1 of each class",
        "  files not read: 1 .txt",
    ]
    rows = [f"{path},{path[:3]}\n" for split in splits for path in names(split)]
    (flat / "list.csv").write_text("".join(rows))
    for source in (name, f"csv:{flat}/list.csv"):
        said = report.describe(open_split(source, "auto"), others=True).splitlines()
        assert said[2] == (
            "  validation was held out: 0.1 of each class; 270 images are not tested, "
            "and --change=dataset.eval_split=train+validation tests all"
        )
        whole = open_split(source, "train+validation")
        assert "held out" not in report.describe(whole, others=True)
    assert report.describe(open_split("mnist", "test")).splitlines() == [
        "data: mnist, 10 classes",
        "  test: 10,000 images",
    ]


def test_links_are_followed_and_counted(photographs):
    best = photographs / "train/cat/best"
    best.mkdir()
    (best / "z.png").symlink_to("../z.PNG")
    (best / "unread.txt").symlink_to("../z.PNG")
    (photographs / "train/emu").symlink_to("dog")
    name = f"folder:{photographs}"
    split = open_split(name, "train")
    assert len(split) == 6
    assert report.describe(split).splitlines()[2:] == [
        "  files not read: 1 .txt",
        "  links followed: 2; an image with two paths counts as two",
    ]
    (photographs / "elsewhere").symlink_to("train/dog")  # no split, and so not read
    assert "links followed: 2;" in report.describe(open_split(name, "train"))
    (best / "unread.txt").unlink()
    (photographs / "train/empty").symlink_to(photographs / "train/cat/none")
    os.mkdir(photographs / "train/cat/none")
    with pytest.raises(DataError, match="empty holds no images: add some, or del"):
        open_split(name, "train")


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


def test_the_order_is_that_of_whole_paths(tmp_path):
    """Of "-", "/", "0" and letters, "/" is the second."""
    paths = "x/a-b/1.png x/a-b.png x/a.png x/a/2.png x/a/b/3.png x/a/b.png x/a0.png"
    paths = [*paths.split(), "y/é/1.png", "y/\uffee.png", "y/🐕.png", "y/🐕/1.png"]
    paths.append(os.fsdecode(b"y/\xff.png"))
    write(tmp_path, paths)
    split = open_split(f"folder:{tmp_path}", "train", holdout=0.0)
    assert names(split) == [data_source.as_text(path) for path in sorted(paths)]
    (tmp_path / "l.csv").write_text("".join(f"{p},{p[0]}\n" for p in paths[:-1]))
    split = open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)
    assert names(split) == sorted(paths[:-1])


def test_files_without_splits_are_held_out_by_their_names(flat):
    train = open_split(f"folder:{flat}", "train")
    validation = open_split(f"folder:{flat}", "auto")
    assert validation.split == "validation"
    every = {str(p.relative_to(flat)) for p in flat.rglob("*.png")}
    assert set(names(train)) | set(names(validation)) == every
    assert len(train) + len(validation) == 300
    assert validation.class_counts().tolist() == [20, 10]
    kept = set(names(validation))
    more = set(names(open_split(f"folder:{flat}", "validation", holdout=0.3)))
    assert kept < more and len(more) == 90
    assert len(open_split(f"folder:{flat}", "train", holdout=0.0)) == 300
    message = "holds no examples: 0 of each class is held out, .* Raise config.dataset"
    with pytest.raises(DataError, match=message):
        open_split(f"folder:{flat}", "validation", holdout=0.0)
    # Others that come or go, and another place, move none of them.
    shutil.rmtree(flat / "bee")
    write(flat, [f"cow/{i}.png" for i in range(9)])
    moved = flat.rename(flat.with_name("elsewhere"))
    now = set(names(open_split(f"folder:{moved}", "validation")))
    assert {n for n in now if n[:3] == "ant"} == {n for n in kept if n[:3] == "ant"}


def test_what_is_held_out_stays_what_it_is():
    # A change would mix the training images of yesterday's run into its validation.
    files = image_folder.Files()
    for i in range(60):
        files.add(f"ant/{i:03}.png", 0)

    def held(by, share=0.1, number=60):
        found = image_folder.held_out(files.hashes()[:number], share, by)
        return np.flatnonzero(found).tolist()

    assert held("path") == [20, 21, 23, 29, 30, 33, 35, 36, 50, 53, 56]
    assert len(held("class")) == 6 and set(held("class")) < set(held("path"))
    # Two images of a class are enough for both parts, whatever the share.
    assert [len(held("class", share, 2)) for share in (0.0, 0.01, 0.9)] == [0, 1, 1]
    assert held("class", number=1) == []


def test_an_old_run_keeps_what_was_held_out(flat):
    """Binomial(300, 0.1): 30 with a deviation of 5.2; four of these."""
    old = open_split(f"folder:{flat}", "auto", holdout_by="path")
    assert 9 < len(old) < 51 and len(old) != 30
    assert old.findings.held_out.startswith("0.1 of all files, by the earlier rule")
    (flat / "all.csv").write_text(
        "".join(f"{p.relative_to(flat)},{p.parent.name}\n" for p in flat.rglob("*.png"))
    )
    same = open_split(f"csv:{flat}/all.csv", "auto", holdout_by="path")
    assert names(same) == names(old)


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
    refused("train/emu holds no images: add some, or delete the folder")
    open_split(f"folder:{photographs}", "validation")
    (photographs / "train/emu").rmdir()
    write(photographs, ["train/x.jpg"])
    refused("train/x.jpg is in no class folder")
    (photographs / "train/x.jpg").unlink()
    (photographs / "val/cat").mkdir(parents=True)
    refused("has both val")
    (photographs / "val/cat").rmdir()
    shutil.rmtree(photographs / "train")
    refused("has no train folder beside validation .read as validation.")
    (photographs / "validation").rename(photographs / "dev")
    refused("train folder beside dev .read as validation.; .*, list the images in a CS")


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
    odd.append(os.fsdecode(b"\xe9t\xe9/1.jpg"))
    write(tmp_path, odd)
    split = open_split(f"folder:{tmp_path}", "train", holdout=0.0)
    assert split.label_names == ("\\xe9t\\xe9", "a b", "日本")
    assert {n.encode().decode() for n in names(split)} == {
        *("a b/+,ä.jpg", "a b/\\xff.jpg", "日本/1.jpg", "日本/2.jpg"),
        "\\xe9t\\xe9/1.jpg",
    }
    at = names(split).index("a b/\\xff.jpg")
    assert split.examples([at])[0].image == (tmp_path / odd[1]).read_bytes()
    (tmp_path / odd[1]).unlink()
    with pytest.raises(DataError, match=r"a b/\\xff.jpg cannot be read") as error:
        split.examples([at])
    assert str(error.value).encode()


def test_messages_about_folders_of_unusual_names(tmp_path):
    root = tmp_path / os.fsdecode(b"\xff")

    def refused(message, name="folder:{}"):
        with pytest.raises(DataError, match=message) as error:
            open_split(name.format(root), "train")
        assert str(error.value).encode()

    refused(r"/\\xff cannot be listed")
    refused(r"/\\xff.csv cannot be read", "csv:{}.csv")
    (tmp_path / os.fsdecode(b"\xff.csv")).write_text("a.png\n")
    refused(r"/\\xff.csv, line 1: 'a.png' is not", "csv:{}.csv")
    write(root, ["dev/cat/a.png"])
    refused(r"/\\xff has no train folder")
    write(root, ["train/a.png", "bus/a.png"])
    shutil.rmtree(root / "dev")
    (root / "train/cat").mkdir()
    refused(r"/\\xff/train may be a split or a class")
    shutil.rmtree(root / "bus")
    refused(r"/\\xff/train holds one class, 'cat'")
    (root / "train/dog").mkdir()
    refused(r"/\\xff/train/a.png is in no class folder")
    (root / "train/a.png").unlink()
    refused(r"/\\xff/train/cat holds no images")
    shutil.rmtree(root / "train")
    write(root, ["train/a.png", "validation/a.png"])
    refused(r"/\\xff: train, validation hold no class folders")


def test_classes_that_look_alike_are_said(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path, [f"{composed}/a.png", f"{decomposed}/a.png"])
    write(tmp_path, ["Tea/a.png", "tea/b.png"])
    (remark,) = open_split(f"folder:{tmp_path}", "train").findings.remarks
    assert remark.startswith("warning: classes that differ only by capitals or by")
    assert r"'cafe\u0301' and 'caf\xe9'" in remark and "'Tea' and 'tea'" in remark
    rows = [f"{composed}/a.png,{composed},train", "Tea/a.png,Tea,train"]
    rows.append("tea/b.png,tea,test")
    (tmp_path / "l.csv").write_text("\n".join(rows))
    message = "line 3: no training image has the class 'tea', only 'Tea' in other cap"
    with pytest.raises(DataError, match=message):
        open_split(f"csv:{tmp_path}/l.csv", "test")


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


def test_leading_zeros_count_unless_all_labels_are_numbers(tmp_path):
    write(tmp_path, [f"{i}.png" for i in range(4)])
    for labels, classes, numbers in (
        (("00", "1", "01", "0"), ("0", "1"), [0, 1, 1, 0]),
        (("01", "1", "01", "other"), ("01", "1", "other"), [0, 1, 0, 2]),
    ):
        rows = [(f"{i}.png", label) for i, label in enumerate(labels)]
        name = write_csv(tmp_path / "l.csv", rows)
        split = open_split(name, "train", holdout=0.0)
        assert split.label_names == classes
        assert [label for _, label in labelled(split)] == numbers


def test_a_csv_of_large_numbers_costs_nothing(flat):
    (flat / "list.csv").write_text("ant/001.png,0\nbee/000.png,2000000\n")
    tracemalloc.start()
    with pytest.raises(DataError, match="no training image of class 1; .* to 2000000"):
        open_split(f"csv:{flat}/list.csv", "train")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10e6  # two million numbers take 150 MB


@pytest.mark.parametrize(
    "header",
    ["Path,Label", "filename,class", "FILE,Category", "image_id,target", "Image,label"],
)
def test_a_csv_with_another_header(tmp_path, header):
    write(tmp_path, ["a.png", "b.png"])
    (tmp_path / "l.csv").write_text(f"{header}\na.png,x\nb.png,y\n")
    split = open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)
    assert labelled(split) == [("a.png", 0), ("b.png", 1)]
    assert split.label_names == ("x", "y") and split.findings.remarks == []


def test_a_header_says_which_columns_are_read(tmp_path):
    write(tmp_path, ["a.png", "b.png", "c.png"])
    lines = [",Width,Label,Set,File Name", "0,7,x,Train,a.png", "1,,y,training,b.png"]
    (tmp_path / "l.csv").write_text("\n".join([*lines, "2,9,y,Dev,c.png"]))
    split = open_split(f"csv:{tmp_path}/l.csv", "train")
    assert labelled(split) == [("a.png", 0), ("b.png", 1)]
    assert labelled(open_split(f"csv:{tmp_path}/l.csv", "auto")) == [("c.png", 1)]
    assert split.findings.remarks == ["columns not read: Width"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a.png,x\nb.png\n", "line 2: 'b.png' is not path,label or"),
        ("a.png,x\nb.png,x,train\n", "line 2: 'b.png,x,train' is not"),
        ("a.png\n", "line 1: 'a.png' is not path,label"),
        ("a.png,x\n\nb.png,\n", "line 3: 'b.png,' is not"),
        ("path,label\na.png,x\nc.png,y\n", "line 3: c.png is missing"),
        ("a.png,x\nno/b.png,y\n", "line 2: no/b.png is missing"),
        (
            "bild,klasse\na.png,x\n",
            "line 1: bild is missing .a header names its columns path and label",
        ),
        ("a/b,x\na.png,y\n", "line 1: a/b is missing\\.$"),
        ("a.png,x\nin,y\n", "line 2: in is a folder"),
        ("a.png;x\n", "'a.png;x' is not path,label or .*, with commas"),
        ("a.png,x\nb.png,x\n./a.png,y\n", "line 3: a.png is in line 1 too"),
        ("a.png,x\nb.png,x\nb.png,y\na.png,y\n", "line 3: b.png is in line 2 too"),
        ("a.png,x\na.png,x\na.png,y\nb.png\n", "line 2: a.png is in line 1 too"),
        ("a.png,x,train\nb.png,x,rest\n", "line 2: the split 'rest' is none of train,"),
        (
            "a.png,x,train\nb.png,y,train\nd.png,z,test\n",
            "line 3: no training image has the class 'z'",
        ),
        ("a.png,x,train\nb.png,y,test\n", "holds one class, 'x', and two are needed"),
        ("a.png,x,test\nb.png,y,test\n", "no line of the split train"),
        (
            "a.png,1\nb.png,2\n",
            "no training image of class 0; its labels go from 1 to 2 .*: renumber them",
        ),
        ('a.png,x\nb.png,"x\n', "cannot be read after line 1: unexpected end of data"),
        ("path,label\n", "names no images"),
        ("", "names no images"),
    ],
)
def test_wrong_csvs(tmp_path, lines, message):
    write(tmp_path, ["a.png", "b.png", "d.png", "in/c.png"])
    (tmp_path / "l.csv").write_text(lines)
    with pytest.raises(DataError, match=message) as error:
        open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)
        open_split(f"csv:{tmp_path}/l.csv", "test", holdout=0.0)
    assert "l.csv" in str(error.value)


def test_a_csv_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no.csv cannot be read after line 1: No such"):
        open_split(f"csv:{tmp_path}/no.csv", "train")
    (tmp_path / "l.csv").write_bytes(b"a.png,x\nb\xff.png,x\n")
    message = "l.csv cannot be read .*: it is not in UTF-8 .* decode byte 0xff"
    with pytest.raises(DataError, match=message):
        open_split(f"csv:{tmp_path}/l.csv", "train")


def test_a_folder_that_a_csv_cannot_look_into_is_no_missing_file(tmp_path, monkeypatch):
    write(tmp_path, ["in/a.png", "in/b.png"])
    (tmp_path / "l.csv").write_text("in/a.png,x\nin/b.png,y\n")

    def refuse(path):  # root, who may run this, is refused nothing
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{tmp_path}/in cannot be listed: Permission"):
        open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)


def test_a_csv_from_a_spreadsheet(tmp_path):
    write(tmp_path, ["a.png", "b.png"])
    text = "\ufeffpath,label\r\na.png , x\r\nb.png,y\r\n"
    (tmp_path / "l.csv").write_bytes(text.encode())
    split = open_split(f"csv:{tmp_path}/l.csv", "train", holdout=0.0)
    assert labelled(split) == [("a.png", 0), ("b.png", 1)]
    assert split.label_names == ("x", "y")


def test_the_share_held_out_is_a_share(flat):
    for wrong in (1.0, -0.1):
        with pytest.raises(DataError, match=r"not in \[0, 1\)"):
            open_split(f"folder:{flat}", "train", holdout=wrong)


# What a cache is trusted by.


def test_stamps_know_each_path_size_time_and_label(flat, monkeypatch):
    name = f"folder:{flat}"
    before = open_split(name, "train").stamps()
    assert len(set(before.tolist())) == 270
    np.testing.assert_array_equal(open_split(name, "train").stamps(), before)
    monkeypatch.setattr(image_folder, "STAT_PART", 7)
    np.testing.assert_array_equal(open_split(name, "train").stamps(), before)
    files = names(open_split(name, "train"))
    found = os.stat(flat / files[7])
    os.utime(flat / files[7], ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    (flat / files[8]).unlink()
    split = open_split(name, "train")
    assert len(split) == 269
    with open(flat / files[9], "ab") as file:
        file.write(b"!")
    os.utime(flat / files[9], ns=(found.st_atime_ns, found.st_mtime_ns))
    now = split.stamps()
    changed = np.flatnonzero(now != np.delete(before, 8))
    np.testing.assert_array_equal(changed, [7, 8])
