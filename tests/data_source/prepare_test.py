"""Preparing ImageNet's tars and image files as TFDS directories."""

import io
import json
import os
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data_source import DataError, open_split, prepare, tfds_directory

pytestmark = pytest.mark.usefixtures("no_other_data")

SYNSETS = ("n01440764", "n01443537", "n01484850")  # tfds' first three
COUNTS = {"train": 30, "validation": 9}
VALIDATION = [SYNSETS[i] for i in (2, 0, 1, 1, 0, 2, 0, 0, 1)]


def jpeg(number, mode="RGB", kind="JPEG"):
    image = Image.new("RGB", (8 + number % 5, 9), (40 * (number % 6), number, 200))
    file = io.BytesIO()
    image.convert(mode).save(file, kind)
    return file.getvalue()


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


TRAINING = {
    synset: {f"{synset}_{i}.JPEG": jpeg(10 * n + i) for i in range(10)}
    for n, synset in enumerate(SYNSETS)
}
VALIDATING = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(90 + i) for i in range(1, 10)}


@pytest.fixture
def tars(tmp_path):
    """The two tars, of 30 and 9 images; the validation's not in their order."""
    manual = tmp_path / "manual"
    manual.mkdir()
    inner = {f"{synset}.tar": tar(images) for synset, images in TRAINING.items()}
    (manual / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    backwards = dict(reversed(VALIDATING.items()))
    (manual / "ILSVRC2012_img_val.tar").write_bytes(tar(backwards))
    return manual


def prepare_tars(manual, out, **changed):
    given = {"counts": COUNTS, "classes": SYNSETS, "validation_labels": VALIDATION}
    return prepare.prepare_imagenet(manual, out, **given | changed)


@pytest.fixture
def four_shards(monkeypatch):
    """As many shards for each split, as of data sets a million times larger."""
    from tensorflow_datasets.core.utils import shard_utils

    monkeypatch.setattr(
        shard_utils.ShardConfig,
        "calculate_number_shards",
        staticmethod(lambda *_: 4),
    )


def contents(data_dir):
    """The examples, and the names of the files."""
    splits = [open_split("imagenet2012", s, data_dir=data_dir) for s in COUNTS]
    files = {file.name for file in (data_dir / "imagenet2012/5.1.0").iterdir()}
    return [split.examples(range(len(split))) for split in splits], files


def test_the_official_numbers_are_what_is_checked():
    import tensorflow_datasets as tfds

    assert prepare.IMAGENET_COUNTS == {"train": 1281167, "validation": 50000}
    file = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    labels = Counter(file.read_text().split())
    assert len(labels) == 1000 and set(labels.values()) == {50}


@pytest.mark.usefixtures("four_shards")
def test_the_prepared_set_is_read_here_and_by_tfds(tmp_path, tars):
    import tensorflow_datasets as tfds

    done = prepare_tars(tars, tmp_path)
    assert done == tmp_path / "imagenet2012/5.1.0"
    names = (
        tfds.builder("imagenet2012", data_dir=str(tmp_path))
        .info.features["label"]
        .names
    )
    stock = tfds.builder_from_directory(str(done))
    assert tfds.builder("imagenet2012", data_dir=str(tmp_path)).is_prepared()
    assert stock.info.splits["train"].shard_lengths == [8, 7, 7, 8]
    with pytest.raises(DataError, match="format is already set to .*ARRAY"):
        prepare_tars(tars, tmp_path, file_format="tfrecord")
    expected = {
        "train": {
            n: (d, s) for s, images in TRAINING.items() for n, d in images.items()
        },
        "validation": {
            n: (VALIDATING[n], s)
            for n, s in zip(sorted(VALIDATING), VALIDATION, strict=True)
        },
    }
    for split, images in expected.items():
        ours = open_split("imagenet2012", split, data_dir=tmp_path)
        assert ours.image_shape == (None, None, 3) and ours.num_classes == 1000
        found = {}
        for example in ours.examples(range(len(ours))):
            name = example.name.rpartition(", ")[2]
            found[name] = (example.image, ours.label_names[example.label])
        assert found == images and len(ours) == len(images)
        theirs = stock.as_data_source(split)
        assert len(theirs) == len(images)
        for i, example in enumerate(theirs):
            data, synset = images[example["file_name"].decode()]
            assert names[example["label"]] == synset
            with Image.open(io.BytesIO(data)) as image:
                # tfds decodes with OpenCV: another JPEG decoder, other roundings.
                error = np.abs(example["image"] - np.asarray(image, float))
            assert error.max() <= 3
            assert ours.examples([i])[0].name.endswith(example["file_name"].decode())


@pytest.mark.usefixtures("four_shards")
def test_a_killed_preparation_goes_on(tmp_path, tars, monkeypatch):
    prepare_tars(tars, tmp_path / "whole")
    written, write = [], prepare._write_records

    def killed(path, file_format, records):
        if len(written) == 5:
            path.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        written.append(path)
        write(path, file_format, records)

    monkeypatch.setattr(prepare, "_write_records", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_tars(tars, tmp_path / "killed")
    with pytest.raises(DataError, match="is missing"):
        open_split("imagenet2012", "train", data_dir=tmp_path / "killed")
    (making,) = (tmp_path / "killed/imagenet2012").iterdir()
    cut = making / "imagenet2012-train.array_record-00002-of-00004"
    cut.write_bytes(cut.read_bytes()[:-9])
    written.clear()
    done = prepare_tars(tars, tmp_path / "killed")
    assert len(written) == 4  # of eight: the three missing and the one that was cut
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert [p.name for p in done.parent.iterdir()] == ["5.1.0"]
    assert prepare_tars(tars, tmp_path / "killed") == done and len(written) == 4


@pytest.mark.usefixtures("four_shards")
def test_a_preparation_goes_on_with_the_same_images_alone(tmp_path, tars, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_write_records", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_tars(tars, tmp_path)
    with pytest.raises(DataError, match="was begun with other files; remove it"):
        prepare_tars(tars, tmp_path, validation_labels=VALIDATION[::-1])


def test_two_processes_do_not_prepare_one_set(tmp_path, tars, monkeypatch):
    refused, write = [], prepare._write_records

    def another(*arguments):
        if not refused:  # flock tells open files apart, in one process too
            with pytest.raises(DataError, match="Another process writes .*: wait") as e:
                prepare_tars(tars, tmp_path)
            refused.append(str(e.value))
        write(*arguments)

    monkeypatch.setattr(prepare, "_write_records", another)
    done = prepare_tars(tars, tmp_path)
    assert len(refused) == 1 and not (done / "lock").exists()


def test_a_disk_that_cannot_be_locked_is_written_and_said(
    tmp_path, tars, monkeypatch, capsys
):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(prepare.fcntl, "flock", unknown)
    assert prepare_tars(tars, tmp_path).exists()
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().out


def test_a_small_disk_is_refused_before_anything_is_read(tmp_path, tars, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(prepare, "_training_pieces", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 9999))
    message = r"5.1.0 needs 0.0 GB, .* 0.0 GB are free: that is not enough"
    with pytest.raises(DataError, match=message):
        prepare_tars(tars, tmp_path)


def test_the_disk_that_is_needed_is_said(tmp_path, tars, capsys):
    with open(tars / "ILSVRC2012_img_val.tar", "r+b") as file:
        file.truncate(3 * 10**9)  # sparse: takes no disk
    prepare_tars(tars, tmp_path)
    assert "5.1.0 needs 3.0 GB, of which 0.0 are there" in capsys.readouterr().out


def test_tars_that_are_not_the_official_ones(tmp_path, tars):
    def refused(message, **changed):
        with pytest.raises(DataError, match=message):
            prepare_tars(tars, tmp_path, **changed)

    refused(
        "img_train.tar holds 30 images, not 1,281,167", counts=prepare.IMAGENET_COUNTS
    )
    refused("img_val.tar holds 9 images, not 50,000", validation_labels=None)
    refused("img_train.tar does not hold .*: n01484850", classes=SYNSETS[:2])
    refused("img_val.tar does not hold", validation_labels=[SYNSETS[0]] * 9)
    train = tars / "ILSVRC2012_img_train.tar"
    content = train.read_bytes()
    train.write_bytes(content[: len(content) // 2])
    refused("img_train.tar (is cut or damaged|holds 1. images, not 30)")
    train.write_bytes(b"<html>not found</html>" * 99)
    refused("img_train.tar is cut or damaged")
    train.unlink()
    refused("img_train.tar is missing: download it from image-net.org")


def test_files_of_a_folder(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets as tfds

    for i in range(40):
        path = tmp_path / "photos" / ("owl" if i % 4 else "emu") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i, kind="PNG"))
    source = f"folder:{tmp_path}/photos"
    out = f"--data_dir={tmp_path}/out"
    prepare.main([source, out, "--name=birds", "--holdout=0.3"])
    assert f"{tmp_path}/out/birds/1.0.0 is complete" in capsys.readouterr().out
    stock = tfds.builder_from_directory(f"{tmp_path}/out/birds/1.0.0")
    for split in ("train", "validation"):
        files = open_split(source, split, holdout=0.3)
        packed = open_split("birds", split, data_dir=tmp_path / "out")
        assert packed.label_names == files.label_names == ("emu", "owl")
        expected = {
            e.name: (e.image, e.label) for e in files.examples(range(len(files)))
        }
        found = packed.examples(range(len(packed)))
        assert {
            e.name.rpartition(", ")[2]: (e.image, e.label) for e in found
        } == expected
        assert len(stock.as_data_source(split)) == len(packed) == len(files)


@pytest.mark.parametrize("name", ["cat ", " ", "\r", "a\nb", "a\rb", "\u3000cat"])
def test_a_class_name_that_tfds_does_not_keep_is_refused(tmp_path, name):
    for folder in ("cat", name):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "a.png").write_bytes(jpeg(1, kind="PNG"))
    source = f"folder:{tmp_path}/photos"
    with pytest.raises(DataError) as error:
        prepare.prepare_files(source, tmp_path / "out", "birds")
    assert f"does not keep the class name {name!r}, with blanks" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_prepared_set_is_trusted_by_all_of_its_files(tmp_path, capsys):
    files = [b"\xe9t\xe9/\xff0.png", b"\xe9t\xe9/1.png", b"emu/2.png", b"emu/3.png"]
    paths = [tmp_path / "photos" / os.fsdecode(file) for file in files]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i, kind="PNG"))
    (tmp_path / "photos/emu/4.heic").write_bytes(b"")
    arguments = [f"folder:{tmp_path}/photos", f"--data_dir={tmp_path}/out"]
    arguments += ["--name=odd", "--holdout=0.5"]
    prepare.main(arguments)
    said = capsys.readouterr().out
    assert "train: 2 images, 1 of each class" in said
    assert "files not read: 1 .heic" in said and "out/odd/1.0.0 is complete" in said
    packed = open_split("odd", "train+validation", data_dir=tmp_path / "out")
    assert packed.label_names == ("\\xe9t\\xe9", "emu")
    found = {e.name.rpartition(", ")[2] for e in packed.examples(range(4))}
    assert found >= {"\\xe9t\\xe9/\\xff0.png", "emu/3.png"}
    prepare.main(arguments)
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="as array_record, not as tfrecord: --file_fo"):
        prepare.main([*arguments, "--file_format=tfrecord"])
    when = paths[3].stat().st_mtime_ns + 1
    os.utime(paths[3], ns=(when, when))
    with pytest.raises(SystemExit, match="was prepared from other files, or some have"):
        prepare.main(arguments)
    (tmp_path / "out/odd/1.0.0/origin.sha256").unlink()
    capsys.readouterr()
    prepare.main(arguments)
    assert "an earlier version did not note its files" in capsys.readouterr().out


def test_a_share_to_hold_out_is_for_files_without_splits(tmp_path):
    for path in ("train/ant", "train/bee", "test/ant"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "a.png").write_bytes(jpeg(1, kind="PNG"))
    arguments = [f"folder:{tmp_path}", f"--data_dir={tmp_path}/out", "--name=birds"]
    with pytest.raises(SystemExit, match="has splits, so nothing is held out"):
        prepare.main([*arguments, "--holdout=0.1"])
    prepare.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar10"], "cifar10' cannot be prepared: no connection to www.cs.toronto"),
        (["cifar11"], "There is no data set 'cifar11'. Did you mean cifar10"),
        (["imagenet2012"], "imagenet2012 needs --manual_dir"),
        (["folder:/x"], "image files need --name"),
        (["folder:/x", "--name=x"], "/x cannot be listed"),
        (["cifar10", "--name=birds"], "--name is for image files, not for cifar10"),
        (["imagenet2012", "--holdout=0.3"], "--holdout is for image files, not for im"),
        (
            ["csv:/x", "--name=x", "--manual_dir=/y"],
            "--manual_dir is for a name of TFDS, not for csv:/x",
        ),
        (["folder:/x", "--name=a/b"], "'a/b' is not a data set name"),
        (["imagenet2012", "--manual_dir=/x"], "img_train.tar is missing"),
    ],
)
def test_wrong_commands_are_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        prepare.main([*arguments, f"--data_dir={tmp_path}"])
    assert message in capsys.readouterr().err + str(exit_.value.code)


def test_a_folder_of_archives_that_holds_none_is_said(tmp_path, monkeypatch, capsys):
    """tfds would ask for them without a network, for 204 s."""
    monkeypatch.setattr(tfds_directory, "_prepare", lambda *_: pytest.fail("tfds"))
    flags = ["mnist", f"--data_dir={tmp_path}/out", f"--manual_dir={tmp_path}/tars"]
    with pytest.raises(SystemExit, match="manual_dir=.*/tars is no folder: name the"):
        prepare.main(flags)
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/train-images.gz").write_bytes(b"")
    with pytest.raises(SystemExit, match="no connection to storage.googleapis.com"):
        prepare.main(flags)
    said = capsys.readouterr().out
    assert f"{tmp_path}/tars has none of tfds' files: t10k-images-idx3-ubyte.gz" in said
    asked = []
    monkeypatch.setattr(tfds_directory, "_prepare", lambda *_: asked.append("tfds"))
    (tmp_path / "tars/train-images-idx3-ubyte.gz").write_bytes(b"")
    prepare.main(flags)
    assert asked and "none of" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_the_records_are_those_that_tfds_prepares(tmp_path, monkeypatch, file_format):
    """Order, labels and bytes; the CMYK images and the PNG become RGB JPEGs in both."""
    pytest.importorskip("tensorflow", reason="make parity installs it")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder

    cmyk, other = "n02105855_1.JPEG", "n02105855_2933.JPEG"  # the second as in tfds
    monkeypatch.setattr(imagenet2012_dataset_builder, "CMYK_IMAGES", [cmyk])
    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    labels = labels.read_text().split()[:9]
    training = {s: {f"{s}_{i}.JPEG": jpeg(i) for i in range(5)} for s in set(labels)}
    training["n02105855"] |= {cmyk: jpeg(3, "CMYK"), other: jpeg(4, kind="PNG")}
    manual = tmp_path / "downloads/manual"
    manual.mkdir(parents=True)
    inner = {f"{synset}.tar": tar(images) for synset, images in training.items()}
    (manual / "ILSVRC2012_img_train.tar").write_bytes(tar(inner))
    (manual / "ILSVRC2012_img_val.tar").write_bytes(tar(VALIDATING))
    tfds.builder(
        "imagenet2012", data_dir=str(tmp_path), file_format=file_format
    ).download_and_prepare()
    prepare_tars(
        manual,
        tmp_path / "ours",
        file_format=file_format,
        counts={"train": sum(map(len, training.values())), "validation": 9},
        classes=set(labels),
        validation_labels=labels,
    )
    for split in COUNTS:
        theirs = open_split("imagenet2012", split, data_dir=tmp_path)
        ours = open_split("imagenet2012", split, data_dir=tmp_path / "ours")
        everything = range(len(theirs))
        assert len(ours) == len(theirs)
        assert ours.examples(everything) == theirs.examples(everything)
    infos = [
        json.loads((p / "imagenet2012/5.1.0/dataset_info.json").read_text())
        for p in (tmp_path, tmp_path / "ours")
    ]
    for info in infos:  # the time it took, the sums and sizes of this preparation
        for key in ("downloadSize", "downloadChecksums", "splits"):
            info.pop(key, None)
    assert infos[0] == infos[1]
