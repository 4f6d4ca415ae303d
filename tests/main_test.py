"""The command line as its users see it: its output and its exit codes."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import runs
from PIL import Image

import data_source
from analysis import answers, image_files, predict
from configs import lenet5
from errors import ConfigError
from experiment import build, workdir

CONFIG = "--config=configs/lenet5.py:modern"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory made through the command line."""
    path = tmp_path_factory.mktemp("trained") / "run"
    result = runs.run_main(runs.command(CONFIG, f"--workdir={path}"))
    assert result.returncode == 0, result.stderr
    return path, result.stdout


def fails(arguments, code, *patterns):
    """main.py exits with `code` and one line that matches."""
    result = runs.call_main(arguments)
    assert result.returncode == code, result.stdout + result.stderr
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error:")]
    for pattern in patterns:
        assert re.search(pattern, line), line
    assert "Traceback" not in result.stderr
    return result


def test_training_ends_with_error_count_and_directory(trained):
    path, output = trained
    last = output.splitlines()[-1]
    assert re.fullmatch(
        r"done: test\[:203\] error \d+\.\d\d % \(\d+ errors, 203/203 images counted\) "
        rf"after step 30; run directory {path}",
        last,
    )
    progress = next(x for x in output.splitlines() if x.startswith("step"))
    for word in ("epoch", "loss", "error", "images/s", "data wait", "ETA"):
        assert word in progress


def test_training_says_what_it_reads_and_what_auto_chose(trained):
    _, output = trained
    lines = output.splitlines()
    start = lines.index("data: mnist, 10 classes")
    assert lines[start + 1 : start + 4] == [
        "  train[:320]: 320 images",
        "  test[:203]: 203 images",
        "  chosen by auto: fit pad (images that are not 32x32), placement device",
    ]
    assert lines[start + 4].startswith("warning: the best checkpoint is chosen by its ")


def test_evaluate_needs_only_the_run_directory(trained):
    path, output = trained
    result = runs.call_main(["--mode=evaluate", f"--workdir={path}"])
    assert result.returncode == 0, result.stderr
    said = output.splitlines()[-1].removeprefix("done: ").split(";")[0]
    assert result.stdout.startswith(said)
    written = json.loads((path / "evaluation-30.json").read_text())
    assert written["count"] == 203


def test_a_finished_run_says_its_result_again(trained):
    path, output = trained
    result = runs.call_main(runs.command(CONFIG, f"--workdir={path}"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == output.splitlines()[-1]


def test_predict_prints_five_classes_and_draws_a_panel(trained, tmp_path):
    path, _ = trained
    split = data_source.open_split("mnist", "test[:3]")
    files = []
    for number in range(3):
        file = tmp_path / f"digit{number}.png"
        Image.fromarray(split.read([number])[0][0, ..., 0]).save(file)
        files.append(str(file))
    result = runs.call_main(
        ["--mode=predict", f"--workdir={path}", f"--images={','.join(files)}"]
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for file, line in zip(files, lines, strict=False):
        assert line.startswith(f"{file}:")
        shares = [float(x) for x in re.findall(r"(\d+\.\d) %", line)]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 100.3  # five numbers rounded to 0.1 each
    with Image.open(lines[-1].split("panel: ")[1]) as panel:
        assert panel.width > 400


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of three digits, a damaged image, and files that are no images."""
    folder = tmp_path_factory.mktemp("digits")
    split = data_source.open_split("mnist", "test[:3]")
    for number, name in enumerate(["a.png", "b,1.png", "below/c.png"]):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(split.read([number])[0][0, ..., 0]).save(file)
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "a.png").write_text("left by a network drive")
    return folder


def test_predict_finds_folders_patterns_and_lists(digits, monkeypatch):
    def found(*images, given=b""):
        buffered = io.BufferedReader(io.BytesIO(given))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(buffered))
        return [
            (name.removeprefix(f"{digits}/"), data)
            for name, data in image_files.find(images)
        ]

    files = [(name, None) for name in ("a.png", "b,1.png", "bad.png", "below/c.png")]
    assert found(str(digits)) == files
    assert found(f"{digits}/b*") == files[1:3]
    assert found(f"{digits}/**/c.*", f"{digits}/a.png") == [files[3], files[0]]
    odd = digits / "below" / "[x].png"
    odd.write_bytes(b"")
    assert found(str(odd)) == [("below/[x].png", None)]
    odd.unlink()
    # What is not there is reported when it is read.
    assert found("none/*.png", "none.png") == [("none/*.png", None), ("none.png", None)]
    lines = f"{digits}/b,1.png\r\n\n{digits}/below\n{digits}/bad.png".encode()
    expected = [files[1], files[3], files[2], files[0]]
    assert found("-", f"{digits}/a.png", given=lines) == expected
    assert found("-", given=os.fsencode(b"\xe4.png")) == [
        (os.fsdecode(b"\xe4.png"), None)
    ]
    assert found("-") == []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        file = io.BytesIO()
        Image.new("RGB", (20, 20), (99, 99, 99)).save(file, kind)
        assert found("-", given=file.getvalue()) == [("-", file.getvalue())]
    (digits / "empty").mkdir()
    ((name, problem),) = found(f"{digits}/empty")
    assert name == "empty" and "holds no image files" in str(problem)
    with pytest.raises(data_source.DataError, match="holds no image files"):
        raise problem


def test_a_bad_image_costs_only_its_own_answer(trained, digits, tmp_path):
    path, _ = trained
    arguments = ["--mode=predict", f"--workdir={path}", f"--images={digits}"]
    result = fails(arguments, 1, "1 of 4 images have no answer; .*bad.png is no readab")
    *printed, last = result.stdout.splitlines()
    assert last.startswith("3 of 4 images have answers after step 30 of ")
    fails([*arguments, f"--output={tmp_path}/a.csv"], 1, "1 of 4 images have no answer")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    for row, line in zip(rows, printed, strict=True):
        best = [
            f"{row[f'class_{n}']} {100 * float(row[f'probability_{n}']):.1f} %"
            for n in range(1, 6)
            if not row["problem"]
        ]
        said = "  ".join(best) or f"no answer: {row['problem']}"
        assert line == f"{row['image']}:  {said}"
    assert [bool(row["problem"]) for row in rows] == [False, False, True, False]


def test_a_warning_is_a_line_that_says_so(trained, digits):
    path, _ = trained
    arguments = ["--mode=predict", f"--workdir={path}", f"--images={digits}"]
    first, *_ = runs.run_main(arguments).stderr.splitlines()
    assert first == f"warning: {digits}: 1 files are no images by their names"


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_answers_keep_odd_names(kind, tmp_path):
    given = [
        predict.Answer('ä,"1"\n.png', [("Café, 8", 0.75), ("ö", 0.25)]),
        predict.Answer(os.fsdecode(b"\xff.png"), [], "it is damaged"),
    ]
    file = tmp_path / f"answers.{kind}"
    with answers.to(str(file), predict.HEADER):
        pass
    assert kind == "csv" or json.loads(file.read_text()) == []
    file.unlink()
    with answers.to(str(file), predict.HEADER) as write:
        for answer in given:
            write(answer)
            assert not file.exists()
    if kind == "json":
        rows = json.loads(file.read_bytes())
        assert rows[0] == {
            "image": given[0].image,
            "best": [
                {"class": "Café, 8", "probability": 0.75},
                {"class": "ö", "probability": 0.25},
            ],
            "problem": "",
        }
        assert rows[1] == {
            "image": given[1].image,
            "best": [],
            "problem": "it is damaged",
        }
    else:
        text = file.read_text("utf-8", "surrogateescape")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [row["image"] for row in rows] == [answer.image for answer in given]
        assert (rows[0]["class_1"], rows[0]["probability_1"]) == ("Café, 8", "0.75")
        assert (rows[1]["class_1"], rows[1]["problem"]) == ("", "it is damaged")


def test_flags_of_predict(trained):
    path, _ = trained
    arguments = ["--mode=predict", f"--workdir={path}", "--images=a.png"]
    fails([*arguments, "--output=answers.txt"], 2, "answers.txt: predict writes .csv")
    fails([*arguments, "--output=none/a.csv"], 2, "there is no folder none")
    fails(["--mode=evaluate", *arguments[1:]], 2, "--images is for predict, inspect")
    fails(["--mode=evaluate", arguments[1], "--output=a.csv"], 2, "--output is for")


def test_predict_reads_no_further_than_a_batch(trained, digits, monkeypatch):
    path, _ = trained
    written, opened = [], predict.trained.open_run
    names = [str(digits / name) for name in ("a.png", "b,1.png", "below/c.png")]

    def shrunk(*arguments):
        network = opened(*arguments)
        config = network.config.copy_and_resolve_references()
        config.eval.batch_size = 2
        return dataclasses.replace(network, config=config)

    def find(images):
        for number in range(7):
            assert number - len(written) <= 2
            yield images[number % 3], None

    monkeypatch.setattr(predict.trained, "open_run", shrunk)
    monkeypatch.setattr(image_files, "find", find)
    monkeypatch.setattr(
        answers, "to", lambda *_: contextlib.nullcontext(written.append)
    )
    found = predict.predict_run(workdir.Workdir(path), "latest", names)
    assert (found.answered, found.failed) == (7, [])
    # Each image stands in another place of its batch; the last batch is filled up.
    for answer, same in zip(written[3:], written, strict=False):
        assert answer == same
    assert written[0].best != written[1].best


def test_predict_refuses_what_is_no_image(trained, tmp_path):
    path, _ = trained
    text = tmp_path / "text.png"
    text.write_text("no image")
    arguments = ["--mode=predict", f"--workdir={path}", f"--images={text}"]
    fails(arguments, 1, "text.png is no readable image")
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99), np.uint8)).save(
        cut
    )
    cut.write_bytes(cut.read_bytes()[:2000])
    fails([*arguments[:2], f"--images={cut}"], 1, "cut.png is no readable image")
    fails([*arguments[:2], f"--images={tmp_path}/none.png"], 1, "no file .*none.png")
    strip = tmp_path / "strip.png"
    Image.new("L", (300, 40)).save(strip)
    fails([*arguments[:2], f"--images={strip}"], 1, "strip.png is 300x40", "28x28")
    fails(arguments[:2], 2, "needs --images")


def test_wrong_flags(tmp_path):
    run = f"--workdir={tmp_path}/run"
    fails([CONFIG, run, "--config.optimizer.learning_rte=1"], 2, "learning_rate", "rte")
    fails([CONFIG, run, "--config.batch_size=1.5"], 2, "batch_size=1.5")
    fails(["--config=configs/none.py", run], 2, "configs/none.py", "No such file")
    fails(["--config=configs/lenet5.py:papr", run], 2, "papr", "paper")
    fails([CONFIG, run, "--config.model.name=lenet"], 2, "lenet5")
    fails([CONFIG, run, "--config.dataset.name=mnits"], 1, "Did you mean mnist")
    fails([CONFIG, run, "--config.dataset.eval_split=tset"], 1, "tset", "train")
    fails([CONFIG, run, "--confg=3"], 2, "confg")
    fails([CONFIG, run, "--mode=test"], 2, "mode")
    fails([CONFIG], 2, "--workdir")
    fails(["--mode=export", CONFIG, run], 2, "run's own config")
    fails(["--mode=export", run, "--output=net.onnx"], 2, "into a directory")
    fails(["--mode=sweep", CONFIG, run], 2, "--vary")
    fails(["--mode=sweep", CONFIG, run, "--vary=batch_size=1,x"], 2, "batch_size")
    fails([CONFIG, run, "--config.num_devices=99"], 2, "config.num_devices")
    assert not (tmp_path / "run").exists()


def test_data_directory_without_the_set(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(
        [CONFIG, f"--workdir={tmp_path}/run", f"--config.dataset.data_dir={empty}"],
        1,
        str(empty),
        "mnist",
    )
    assert not (tmp_path / "run").exists()


def test_directories_that_hold_no_run(tmp_path):
    for mode in (["--mode=evaluate"], ["--mode=predict", "--images=a.png"]):
        for path in (tmp_path, tmp_path / "none"):
            fails([*mode, f"--workdir={path}"], 1, "holds no run", str(path))
    stranger = tmp_path / "thesis.tex"
    stranger.write_text("years of work")
    fails([CONFIG, f"--workdir={tmp_path}"], 1, "thesis.tex")
    assert stranger.read_text() == "years of work"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    # A path below a file cannot be made, by root neither.
    fails([CONFIG, f"--workdir={stranger}/run"], 1, "thesis.tex/run")


def test_another_config_does_not_touch_the_run(trained):
    path, _ = trained
    before = (path / "config.json").read_text()
    result = runs.call_main(
        runs.command(CONFIG, f"--workdir={path}", optimizer__learning_rate=0.5)
    )
    assert result.returncode == 2
    assert "config.optimizer.learning_rate: 0.05 in the run, 0.5 given" in result.stderr
    assert (path / "config.json").read_text() == before


def test_a_checkpoint_of_another_network(trained, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(trained[0], path)
    config = json.loads((path / "config.json").read_text())
    config["model"]["name"] = "lenet5"
    config["loss"]["name"] = "map"
    (path / "config.json").write_text(json.dumps(config))
    fails(["--mode=evaluate", f"--workdir={path}"], 1, "does not fit this model")
    (path / "config.json").write_text("{")
    fails(["--mode=evaluate", f"--workdir={path}"], 1, "config.json is damaged")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gamma", 2.2, "config.dataset.gamma: no such field"),
        ("interpolation", "cubist", "config.dataset.interpolation = 'cubist'"),
    ],
)
def test_predict_checks_the_config_of_the_run(trained, tmp_path, field, value, message):
    """It may have been edited, or be another version's."""
    path = tmp_path / "run"
    shutil.copytree(trained[0], path)
    config = json.loads((path / "config.json").read_text())
    config["dataset"][field] = value
    (path / "config.json").write_text(json.dumps(config))
    fails(["--mode=predict", f"--workdir={path}", "--images=a.png"], 2, message)


def test_summarize_from_the_command_line():
    result = runs.call_main(["--mode=summarize", CONFIG])
    assert result.returncode == 0, result.stderr
    assert "61,706" in result.stdout


def test_summarize_of_a_run_asks_its_record_and_not_the_data(trained, tmp_path):
    config, dataset = (
        json.loads((trained[0] / f"{name}.json").read_text())
        for name in ("config", "dataset")
    )
    config["dataset"]["name"] = f"folder:{tmp_path}/gone"
    dataset["label_names"] += ["ten", "eleven"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = ["--mode=summarize", f"--workdir={tmp_path}"]
    fails(run, 1, "gone")
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    result = runs.call_main(run)
    assert result.returncode == 0, result.stderr
    assert ", input 32x32x1, 12 classes" in result.stdout
    assert "10 classes" in runs.call_main([*run, CONFIG]).stdout  # what it trains


def imported(arguments):
    """The modules that a command has imported before it draws anything."""
    code = (
        "import sys, main; from analysis import pictures; "
        "pictures.draw_panel = lambda *_: None; "
        f"assert main.main({['main.py', *arguments]!r}) == 0; "
        "print(*sys.modules, file=sys.stderr)"
    )
    child = runs.run_code(code)
    return set(child.stderr.splitlines()[-1].split())


# What training, drawing, or reading a data set needs, and nothing else does.
HEAVY = set(
    "tensorflow tensorflow_datasets torch keras grain array_record clu tensorboard "
    "tensorboardX matplotlib scipy.stats pandas onnx h5py".split()
)


def test_summarize_imports_only_what_it_needs():
    for config in ("configs/lenet5.py", "configs/resnet50.py"):  # on disk, and not
        found = imported(["--mode=summarize", f"--config={config}"])
        assert not found & (HEAVY | {"orbax", "tensorstore"})


def test_predict_imports_only_what_it_needs_for_the_first_answer(trained, tmp_path):
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "a.png")
    arguments = [f"--workdir={trained[0]}", f"--images={tmp_path}/a.png"]
    assert not imported(["--mode=predict", *arguments]) & (HEAVY | {"orbax"})


def test_start_up_imports_only_what_the_first_step_needs():
    code = (
        "import sys, train; "
        "import data_source; data_source.open_split('mnist', 'test').arrays(); "
        "idle = {'tensorflow', 'torch', 'orbax', 'scipy.special'}; "
        "sys.exit(bool(idle & sys.modules.keys()))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=runs.ROOT, env=runs.environment()
    )
    assert child.returncode == 0


def test_dataset_of_another_shape_is_refused_by_name(tmp_path):
    config = lenet5.get_config("modern")
    with pytest.raises(ConfigError, match="28x28"):
        build.abstract_variables(build.make_model(config, 10), (20, 20, 1))
