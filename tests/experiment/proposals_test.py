"""Proposals are stored once, and read only for what they were made of."""

import pathlib
import types

import numpy as np
import pytest
import runs
from PIL import Image
from tiny_datasets import prepare_voc

from detection import inputs, sources, views
from errors import ConfigError
from experiment import build, outcomes, proposals, workdir


@pytest.fixture
def split(tmp_path):
    root = tmp_path / "voc"
    prepare_voc(root, {"train": "abc", "val": "ba"})
    return sources.open_split(f"voc:{root}", "train")


@pytest.fixture
def proposed(monkeypatch):
    """Stands for a network: image i has i + 1 boxes. Returns the calls."""
    calls = []

    def computed(split, opened, mesh, training):
        calls.append(training)
        counts = np.arange(1, len(split) + 1)
        boxes = np.repeat(counts, counts)[:, None] + np.float32([[0, 0, 9, 9]])
        return {"boxes": boxes.astype(np.float32), "counts": counts}

    monkeypatch.setattr(proposals, "_computed", computed)
    return calls


def opened(value=1.0, step=4, side=64, **fields):
    """Stands for a detectors.Opened."""
    config = runs.small_detector(
        **{f"model__fields__{name}": x for name, x in fields.items()}
    )
    view = views.View(((64, 64),), 5, side, 64)
    return types.SimpleNamespace(
        config=config,
        variables={"params": {"kernel": np.float32([value])}},
        step=step,
        preprocessing=inputs.Preprocessing(view, (0,), (255,)),
    )


def add(split, run, network, training=True):
    mesh = build.make_mesh(1)
    return proposals.added(split, run, network, mesh, training=training)


def test_they_are_computed_once_and_each_image_has_its_own(
    split, proposed, tmp_path, capsys
):
    run = workdir.Workdir(tmp_path)
    first, again = (add(split, run, opened()) for _ in range(2))
    assert proposed == [True]
    (file,) = tmp_path.glob("proposals-4-*.npz")
    computed, read = capsys.readouterr().out.splitlines()
    assert computed == f"proposals: computed for train by {tmp_path}"
    assert read == f"proposals: of train, from {file}"
    for number, objects in enumerate(first.objects, 1):
        row = [[number, number, number + 9, number + 9]]
        boxes = np.float32(row * number).reshape(-1, 4)
        np.testing.assert_array_equal(objects.proposals, boxes)
        np.testing.assert_array_equal(again.objects[number - 1].proposals, boxes)
    assert first.most_proposals == 3 and split.most_proposals == 0


@pytest.mark.parametrize(
    "other",
    [{"value": 2.0}, {"step": 5}, {"side": 48}, {"nms": 0.4}],
)
def test_another_network_or_view_reads_no_old_file(split, proposed, tmp_path, other):
    run = workdir.Workdir(tmp_path)
    add(split, run, opened())
    add(split, run, opened(**other))
    assert len(proposed) == 2 == len(list(tmp_path.glob("proposals-*.npz")))


def test_other_images_and_another_number_read_no_old_file(split, proposed, tmp_path):
    run = workdir.Workdir(tmp_path)
    add(split, run, opened())
    add(split.chosen([0, 2]), run, opened())
    add(sources.open_split(split.name, "val"), run, opened())
    add(split, run, opened(), training=False)
    assert proposed == [True, True, True, False]


def test_an_image_that_was_replaced_gets_new_proposals(split, proposed, tmp_path):
    """It has the name and the size in pixels of the one before."""
    run = workdir.Workdir(tmp_path)
    add(split, run, opened())
    path = pathlib.Path(split.objects[1].name)
    Image.new("RGB", (64, 48)).save(path)
    add(sources.open_split(split.name, "train"), run, opened())
    assert len(proposed) == 2 == len(list(tmp_path.glob("proposals-*.npz")))


def test_nothing_is_stored_if_an_image_has_no_proposals(
    split, monkeypatch, tmp_path, capsys
):
    """Perhaps it could not be read, and can be later."""
    found = {"boxes": np.float32([[0, 0, 9, 9]] * 2), "counts": np.array([1, 0, 1])}
    monkeypatch.setattr(proposals, "_computed", lambda *_: found)
    more = add(split, workdir.Workdir(tmp_path), opened())
    assert [len(one.proposals) for one in more.objects] == [1, 0, 1]
    assert not list(tmp_path.glob("proposals-*.npz"))
    assert "warning: 1 of 3 images have no proposals" in capsys.readouterr().out


def test_a_damaged_file_is_made_again(split, proposed, tmp_path):
    run = workdir.Workdir(tmp_path)
    add(split, run, opened())
    (file,) = tmp_path.glob("proposals-*.npz")
    file.write_bytes(b"damaged")
    assert add(split, run, opened()).most_proposals == 3
    add(split, run, opened())
    assert len(proposed) == 2


def test_a_training_that_has_not_ended_well_is_refused(tmp_path):
    run = workdir.Workdir(tmp_path)
    for outcome in (None, {"step": 3, "of": 4}, {"step": 4, "diverged": True}):
        if outcome:
            run.write_json(outcomes.FILE, outcome)
        with pytest.raises(ConfigError, match=f"{tmp_path}.*has not ended well"):
            proposals.check(run)
    run.write_json(outcomes.FILE, {"step": 4, "of": 4})
    proposals.check(run)
