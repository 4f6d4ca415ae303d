"""What a detector's config and data must be, found before anything is trained."""

import re

import detector_runs
import numpy as np
import pytest
import runs
import tiny_datasets
from tiny_datasets import box, write_voc

from configs import faster_rcnn
from data_source import DataError
from detection import evaluator, inputs, metrics, pictures, records
from detection.split import Split
from errors import ConfigError, UserError
from experiment import build, checks, data_report, detectors, tasks, workdir

CONFIG = "--config=configs/faster_rcnn.py:bccd"


def test_each_field_of_detection_has_a_reader():
    """A name that OBJECTIVE or VIEW lacked would leave a default in its place."""
    others = "buckets max_boxes damaged_boxes unclear stage proposals metric".split()
    read = [*detectors.OBJECTIVE, *detectors.VIEW, *others]
    assert sorted(read) == sorted(faster_rcnn.get_config("digits").detection)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rpn_iou", (0.3, 0.7), "the overlap of positives and a limit for neg"),
        ("rpn_iou", (0.7,), "must be two numbers"),
        ("rpn_iou", (0.7, "0.3"), "must be two numbers"),
        ("roi_background", (0.0, 0.6), "ends at roi_iou = 0.5 or below"),
        ("roi_background", (0.5, 0.5), "ends at roi_iou = 0.5 or below"),
        ("roi_background", (0.0, 0.2, 0.5), "must be two numbers"),
        ("buckets", ((64, 100),), "pairs .height, width. of multiples of 16"),
        ("buckets", ((64, 0),), "of multiples of 16, above zero"),
        ("buckets", (64, 64), "must hold pairs"),
        ("buckets", ((64, 64, 3),), "must hold pairs"),
        ("train_short_sides", (64, 0), "whole pixels above zero"),
        ("train_short_sides", (64.5,), "whole pixels above zero"),
        ("train_short_sides", ((64,),), "whole pixels above zero"),
        ("test_scales", (64, 0), "whole pixels above zero that rise"),
        ("test_scales", (64, 32), "whole pixels above zero that rise"),
        ("test_scales", (32.5, 64), "whole pixels above zero that rise"),
        ("short_side", 0, "must be greater than zero"),
        ("long_side", -1, "must be greater than zero"),
        ("rpn_batch", 0, "must be greater than zero"),
        ("roi_batch", -8, "must be greater than zero"),
        ("max_boxes", -1, "must not be negative"),
        ("rpn_beta", -0.1, "must not be negative"),
        ("box_beta", float("nan"), "is not a finite number"),
        ("rpn_fg", 1.1, "must not be greater than 1"),
        ("roi_fg", -0.1, "must not be negative"),
        ("roi_fg", 0.0, "of config.detection.roi_batch = 8 is no example of an object"),
        ("roi_fg", 0.06, "is no example of an object"),
        ("rpn_fg", 0.0, "is no example of an object"),
        ("roi_iou", 1.5, "must not be greater than 1"),
        ("metric", "voc08", "is none of voc07, voc, coco; did you mean 'voc07'"),
        ("damaged_boxes", "skip", "is none of drop, fail"),
        ("unclear", "exif", "is none of upright, stored"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value, message):
    with pytest.raises(ConfigError, match=f"^config.detection.{name} = .*{message}"):
        runs.small_detector(**{f"detection__{name}": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset.holdout", 0.2),
        ("dataset.holdout_by", "path"),
        ("dataset.cache", "pixels"),
        ("dataset.placement", "device"),
        ("dataset.order", "fixed"),
        ("dataset.balance", 0.5),
        ("dataset.image_size", 64),
        ("dataset.fit", "crop"),
        ("dataset.short_side", 64),
        ("dataset.whiten", "channels"),
        ("eval.protocol", "ten_crop"),
        ("eval.scales", (64, 96)),
        ("eval.average", "logits"),
        ("eval.image_size", 64),
        ("eval.short_side", 64),
        ("augment.view", "rescale_crop"),
        ("augment.rotate", 10.0),
        ("augment.mixup", 0.2),
        ("augment.policy", "randaugment"),
        ("loss.name", "map"),
        ("loss.label_smoothing", 0.1),
        ("loss.class_weights", "balanced"),
        ("optimizer.name", "sdlm"),
        ("optimizer.curvature_examples", 100),
    ],
)
def test_what_only_classifiers_have_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^config.{name} = .* is for classifiers"):
        runs.small_detector(**{name.replace(".", "__"): value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("short_side", 500), ("metric", "coco"), ("buckets", ((64, 64),))],
)
def test_what_only_detectors_have_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"config.detection.{name} = .* is for detec"):
        runs.small_config(**{f"detection__{name}": value})


def test_a_network_s_own_refusal_names_the_config():
    config = runs.small_detector(model__fields__depth=17)
    with pytest.raises(ConfigError, match="config.model: .*depth.*17"):
        build.make_model(config, 10)


def test_grey_images_take_the_average_of_several_means():
    batch = {
        "image": np.full((1, 4, 4, 1), 140, np.uint8),
        "image_size": np.array([[4, 3]], np.int32),
    }
    found = inputs.network_input(batch, (100.0, 120.0, 140.0), (5.0, 10.0, 15.0))
    assert found.shape == (1, 4, 4, 1)
    np.testing.assert_allclose(found[0, :, :3], 2)
    assert not found[0, :, 3].any()


# One stage alone.


def test_proposals_are_for_fast_rcnn_and_fast_rcnn_needs_them():
    with pytest.raises(ConfigError, match="proposals = 'a' is for .*stage = 'fast_rc"):
        runs.small_detector(detection__proposals="a")
    config = runs.small_detector(detection__stage="fast_rcnn")
    with pytest.raises(ConfigError, match="name it in config.detection.proposals"):
        checks.check_start(config)
    with pytest.raises(ConfigError, match="stage = 'both' is none of joint, rpn, fast"):
        runs.small_detector(detection__stage="both")
    with pytest.raises(ConfigError, match="test_scales = .*stage = 'rpn' tests, are"):
        runs.small_detector(detection__stage="rpn", detection__test_scales=(32, 64))


@pytest.mark.parametrize(
    ("stage", "start", "layers", "part"),
    [
        ("joint", "", (), ""),
        ("rpn", "", (), "head"),
        ("rpn", "x", ("backbone",), "head"),
        ("rpn", "x", (), ""),
        ("fast_rcnn", "", ("rpn",), "rpn"),
        ("fast_rcnn", "x", ("backbone", "head"), "rpn"),
        ("fast_rcnn", "x", ("backbone", "^rpn/"), ""),
    ],
)
def test_a_stage_that_is_not_trained_is_known(stage, start, layers, part, tmp_path):
    config = runs.small_detector(
        detection__stage=stage, init_from=start, init_layers=layers
    )
    assert detectors.untrained(config) == part
    run = workdir.Workdir(tmp_path / "run")
    run.create(config)
    message = f"its {part} is as initialised" if part else "holds no run .dataset.json"
    with pytest.raises(UserError, match=message):
        detectors.open_run(run)
    if part == "rpn":
        with pytest.raises(ConfigError, match=f"{run}.*no region proposal network"):
            detectors.with_proposals(proposing(run), None, None)


@pytest.mark.parametrize(("stage", "part"), [("rpn", "head"), ("fast_rcnn", "rpn")])
def test_a_part_that_its_source_did_not_train_is_refused(
    stage, part, tmp_path, monkeypatch
):
    """As step 3 from step 1, and step 4 from step 2."""
    detector_runs.shrink(monkeypatch)
    source = workdir.Workdir(tmp_path / "source")
    source.create(runs.small_detector(detection__stage=stage))
    changes = {"detection__stage": stage, "init_from": str(source)}
    changes |= {"dataset__train_split": "train", "dataset__eval_split": "test"}
    config = runs.small_detector(**changes)
    assert detectors.untrained(config) == part
    message = f"init_from = '{source}': it trained one .* its {part} is as initialised"
    with pytest.raises(ConfigError, match=message):
        detectors.setup(config)
    again = workdir.Workdir(tmp_path / "again")
    again.create(config)
    config = runs.small_detector(**changes | {"init_from": str(again)})
    assert detectors.untrained(config) == part
    whole = workdir.Workdir(tmp_path / "whole")
    whole.create(runs.small_detector())
    config = runs.small_detector(**changes | {"init_from": str(whole)})
    assert not detectors.untrained(config)


def proposing(run, **more):
    stage = {"detection__stage": "fast_rcnn", "detection__proposals": str(run)}
    return runs.small_detector(**stage | more)


def test_a_test_changes_no_stage_that_was_not_trained(tmp_path):
    run = workdir.Workdir(tmp_path / "run")
    run.create(proposing("runs/1"))
    changed = checks.change(run.config(), ["detection.proposals=runs/3"])
    detectors._check_changes(run.config(), changed)
    with pytest.raises(ConfigError, match="stage = 'rpn' tests a region .* is as init"):
        changes = ["detection.stage=rpn"]
        detectors.evaluate_run(run, checks.change(run.config(), changes))
    run = workdir.Workdir(tmp_path / "whole")
    run.create(proposing("runs/3", init_from=str(tmp_path / "3")))
    with pytest.raises(ConfigError, match="proposals = 'runs/1': a network with .* o"):
        changed = checks.change(run.config(), ["detection.proposals=runs/1"])
        detectors.evaluate_run(run, changed)


def test_proposals_are_of_a_detector_for_such_images(voc, tmp_path, capsys):
    classifier = workdir.Workdir(tmp_path / "classifier")
    classifier.create(runs.small_config())
    with pytest.raises(ConfigError, match=f"{classifier}.*no region proposal network"):
        detectors.with_proposals(proposing(classifier), None, None)
    run = detector_runs.make(tmp_path / "run")
    run.write_json("result.json", {"step": 4, "of": 4})
    split = detectors.open_split(config_of(voc), "train")
    config = proposing(run).unlock()
    config.dataset.name = split.name
    with pytest.raises(DataError, match=f"{run} sees images of 1 channels, and voc:"):
        detectors.with_proposals(config, split, None)
    note = f"a network that learnt from 'digits', not from {split.name!r}"
    assert note in capsys.readouterr().out


def test_proposals_of_another_network_than_the_detector_s_are_said(
    voc, tmp_path, capsys
):
    run = detector_runs.make(tmp_path / "run")
    run.write_json("result.json", {"step": 4, "of": 4})
    split = detectors.open_split(config_of(voc), "train")
    for start, said in ((run, False), (tmp_path / "other", True)):
        config = proposing(run, init_from=str(start))
        with pytest.raises(DataError, match="sees images of 1 channels"):
            detectors.with_proposals(config, split, None, training=True)
        note = f"own network, which proposes in tests, is that of {start}"
        assert (note in capsys.readouterr().out) == said


def test_the_curves_of_an_evaluation_are_by_its_rule(tmp_path, monkeypatch):
    box, rules = (2, 3, 20, 25), []
    monkeypatch.setattr(pictures, "draw_worst", lambda *_: None)
    monkeypatch.setattr(pictures, "draw_curves", lambda *_, rule: rules.append(rule))
    row = records.Row("row", box, box, 0)
    one = records.objects("a.png", 1, (30, 40), [row], records.Damage())
    split = Split("made", "val", ("ant",), (one,), (None,))
    found = [metrics.Detections(one.boxes, np.array([0.9]), np.array([0]))]
    for rule in ("voc07", "coco"):
        result = evaluator.score(split, found, rule)
        run = workdir.Workdir(tmp_path)
        detectors._write(run, "4", {}, split, found, result)
    assert rules == ["voc07", "coco"]


def test_what_an_evaluation_cannot_show_is_said(tmp_path, monkeypatch, capsys):
    """A class without an id, and a network that finds nothing at all."""
    monkeypatch.setattr(pictures, "draw_worst", lambda *_: None)
    monkeypatch.setattr(pictures, "draw_curves", lambda *_, rule: None)
    box, nothing = (2, 3, 20, 25), "note: nothing is found in any image"
    row = records.Row("row", box, box, 0)
    one = records.objects("a.png", 1, (30, 40), [row], records.Damage())
    split = Split("made", "val", ("ant",), (one,), (None,))
    split = split.renumbered([0], ("ant", "bee"))
    for label, number in (([1, 1], 2), ([0], 0), ([], 0)):
        boxes, scores = np.repeat(one.boxes, len(label), 0), np.full(len(label), 0.9)
        found = [metrics.Detections(boxes, scores, np.array(label, int))]
        result, run = evaluator.score(split, found, "voc"), workdir.Workdir(tmp_path)
        files = detectors._write(run, "4", {}, split, found, result)
        line = f"note: detections-4.json leaves out {number} detections of classes that"
        assert (line in capsys.readouterr().out) == bool(number)
        said = str(detectors.Evaluation("runs/a", 4, result, files, {}, []))
        assert (nothing in said) == (not label)


def test_a_run_is_not_opened_for_images_of_other_channels(tmp_path):
    run = detector_runs.make(tmp_path / "run")
    split = Split("made", "val", (), (), (), channels=3)
    with pytest.raises(DataError, match=f"{run} sees images of 1 channels, and made h"):
        detectors.open_run(run, split=split)


# A folder of photographs with boxes.


@pytest.fixture
def voc(tmp_path):
    """A folder of three photographs to train on and one to test."""
    root = tmp_path / "voc"
    tiny_datasets.prepare_voc(root, {"train": "abc", "test": "d"})
    return root


def changes(root, **more):
    found = {
        "dataset.name": f"voc:{root}",
        "dataset.train_split": "train",
        "dataset.eval_split": "test",
        "batch_size": 2,
    }
    return runs.DETECTOR | found | more


def says(root, **more):
    """The line with which a training of the folder ends, before it begins."""
    path = root.parent / "run"
    command = runs.command(CONFIG, f"--workdir={path}", small=changes(root), **more)
    result = runs.call_main(command)
    assert result.returncode in (1, 2), result.stdout + result.stderr
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert "Traceback" not in result.stderr
    assert not path.exists()
    return line


@pytest.mark.parametrize(
    ("content", "record"),
    [
        (
            box(3, 4, 20, 30) + "<object><name>cat</name></object>",
            "object 2 has no bnd",
        ),
        (box(3, 4, 20, 30, " "), "object 1 has no name"),
        (box(3, "four", 20, 30), "object 1: ymin is 'four', not a number"),
        (box(3, "nan", 20, 30), "object 1: ymin is 'nan', not a number"),
        (box(3, 4, 20, ""), "object 1: ymax is .*, not a number"),
        (
            box(3, 4, 20, 30, more="<difficult>2</difficult>"),
            "object 1: difficult is '2'",
        ),
    ],
)
@pytest.mark.parametrize("name", ["b", "d"])
def test_a_bad_annotation_is_named_before_training(voc, name, content, record):
    write_voc(voc, name, content=content)
    assert re.search(f"{voc}/Annotations/{name}.xml, {record}", says(voc))


@pytest.mark.parametrize(
    ("corners", "why"),
    [
        ((20, 4, 20, 30), "has no size"),
        ((20, 4, 3, 30), "has no size"),
        ((65, 4, 90, 30), "is outside the image of 64x48 pixels"),
    ],
)
def test_a_bad_box_is_left_out_and_said_or_named_before_training(voc, corners, why):
    write_voc(voc, "b", content=box(3, 4, 20, 30) + box(*corners))
    where = f"{voc}/Annotations/b.xml, object 2"
    numbers = ", ".join(map(str, corners))
    line = says(voc, detection__damaged_boxes="fail")
    assert f"{where}: the box ({numbers}) {why}" in line
    setup = tasks.setup(config_of(voc))
    assert [len(one) for one in setup.train_split.objects] == [2, 1, 2]
    assert f"boxes left out, without a size or outside the image: 1, {where}" in (
        data_report.describe(setup)
    )


def test_a_box_that_an_evaluation_leaves_out_is_said(voc, tmp_path, capsys):
    """The run sees grey images, so its evaluation ends before anything is compiled."""
    write_voc(voc, "d", content=box(3, 4, 20, 30, "7") + box(20, 4, 3, 30, "7"))
    for name in "abc":
        write_voc(voc, name, content="")
    run = detector_runs.make(tmp_path / "run")
    changed = [f"dataset.name=voc:{voc}", "dataset.eval_split=test"]
    config = checks.change(run.config(), [*changed, "eval.classes=subset"])
    with pytest.raises(DataError, match="sees images of 1 channels"):
        detectors.evaluate_run(run, config)
    note = f"note: voc:{voc}: boxes left out, without a size or outside the image: 1, "
    assert note + f"{voc}/Annotations/d.xml" in capsys.readouterr().out


def test_images_that_are_trained_on_and_evaluated_are_counted(voc):
    said = data_report.describe(tasks.setup(config_of(voc)))
    assert "trained on" not in said
    said = data_report.describe(
        tasks.setup(config_of(voc, dataset__eval_split="train"))
    )
    assert "warning: 3 of the 3 images of config.dataset.eval_split, train, are" in said


def test_the_best_checkpoint_of_several_tests_is_doubted(voc, tmp_path):
    tiny_datasets.prepare_voc(tmp_path / "other", {"train": "a", "test": "e", "v": "b"})
    changed = {
        "dataset__name": f"voc:{voc},voc:{tmp_path}/other",
        "dataset__train_split": "train,",
    }
    for split, doubted in (("test,v", True), (",v+test[:1]", True), ("train,v", False)):
        config = config_of(voc, **changed, dataset__eval_split=split)
        said = data_report.describe(tasks.setup(config))
        assert ("the best checkpoint is chosen by its error on test" in said) == doubted


def config_of(root, **more):
    config = faster_rcnn.get_config("bccd")
    more = {name.replace("__", "."): value for name, value in more.items()}
    config.update_from_flattened_dict(changes(root) | more)
    checks.check(config)
    return config


def test_bad_files_are_named_before_training(voc):
    xml, photograph = voc / "Annotations" / "b.xml", voc / "JPEGImages" / "b.jpg"
    write_voc(voc, "b", size=(64, 40))
    xml.write_text(xml.read_text().replace("<height>40", "<height>48"))
    assert f"{photograph}: the boxes are of an image of 64x48 pixels, but" in says(voc)
    xml.write_text("<annotation>")
    assert f"{xml} is no XML: " in says(voc)
    xml.unlink()
    assert f"train.txt: 'b' has no XML in {voc}/Annotations" in says(voc)
    write_voc(voc, "b")
    photograph.with_suffix(".png").write_bytes(b"another")
    assert f"{voc}/JPEGImages has b.jpg, b.png for the image 'b'" in says(voc)
    photograph.with_suffix(".png").unlink()
    photograph.unlink()
    assert f"{voc}/JPEGImages has no file for the image 'b'" in says(voc)


def test_splits_that_cannot_be_used_are_named_before_training(voc):
    line = says(voc, dataset__eval_split="val")
    assert f"{voc}/ImageSets/Main/val.txt is missing; splits: test, train" in line
    assert "'voc:' lacks its path" in says(voc, dataset__name="voc:")
    line = says(voc, dataset__name="mnist", dataset__eval_split="test")
    assert "'mnist' is not a set of annotated objects" in line
    write_voc(voc, "d", content=box(3, 4, 20, 30, more="<difficult>1</difficult>"))
    line = says(voc, detection__metric="voc07")
    assert f"voc:{voc}, test: the split has no objects that count, so there is" in line
    write_voc(voc, "d")
    for name in "abc":
        write_voc(voc, name, content="")
    assert f"voc:{voc}, train: no image has objects" in says(voc)


def test_the_split_to_evaluate_on_has_the_training_s_classes(tmp_path, capsys):
    """A JSON numbers its own categories; its objects are of the first."""
    tiny_datasets.prepare_coco(tmp_path, names=(("bee", 7), ("ant", 9)))
    names = {
        "dataset__name": f"coco:{tmp_path}/{{split}},{tmp_path}/{{split}}.json",
        "dataset__eval_split": "val",
    }

    def setup(*categories, **more):
        tiny_datasets.prepare_coco(tmp_path, "val", names=categories)
        return tasks.setup(config_of(tmp_path, **names, **more))

    found = setup(("ant", 7), ("bee", 9))
    assert found.train_split.label_names == found.eval_split.label_names
    assert [one.labels.tolist() for one in found.eval_split.objects] == [[1]] * 3
    assert [one.labels.tolist() for one in found.train_split.objects] == [[0]] * 3
    said = "numbered as there: in config.dataset.eval_split = 'val'"
    assert said in capsys.readouterr().out
    with pytest.raises(DataError, match="only there bee; .*--config.eval.classes=subs"):
        setup(("ant", 7))
    found = setup(("ant", 7), eval__classes="subset")
    assert [one.labels.tolist() for one in found.eval_split.objects] == [[1]] * 3
    assert found.eval_split.label_names == ("bee", "ant")
    with pytest.raises(DataError, match="its split 'train': .*only here cow"):
        setup(("ant", 7), ("cow", 9))


def test_the_split_to_evaluate_on_has_the_training_s_channels():
    config = runs.small_detector()
    colour, grey = (Split("a", "b", (), (), (), channels=n) for n in (3, 1))
    with pytest.raises(DataError, match="images of 1 channels in config.*, and of 3"):
        detectors.alike(config, grey, colour)


def test_means_that_do_not_fit_the_images_are_refused(voc):
    for name in ("mean", "std"):
        line = says(voc, **{f"dataset__{name}": "(1.0, 2.0)"})
        assert f"config.dataset.{name} = (1.0, 2.0) has 2 values for images" in line


def test_what_the_view_cannot_show_is_named_before_training(voc):
    """Both splits are looked through, as the last may be needed hours later."""
    write_voc(voc, "d", content="".join(box(1, 1, 9 + n, 20) for n in range(5)))
    line = says(voc, detection__max_boxes=4)
    assert f"{voc}/JPEGImages/d.jpg has 5 objects, more than max_boxes = 4" in line
    write_voc(voc, "d", size=(48, 64))
    line = says(voc, detection__buckets="((48, 64),)")
    assert f"{voc}/JPEGImages/d.jpg becomes an image of 64x48, which no bucket" in line
