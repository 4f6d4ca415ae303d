"""A run directory made by commit 0bea62e, before the rooms were built, stays usable.

    python main.py --config=configs/lenet5.py:modern --workdir=runs/lenet5 \\
        --config.num_devices=1 --config.batch_size=64 --config.num_epochs=1 \\
        --config.dataset.train_split='train[:640]' \\
        --config.dataset.eval_split='test[:203]' --config.eval.batch_size=100 \\
        --config.log.every_steps=4 --config.log.tensorboard=False \\
        --config.schedule.name=constant --config.optimizer.kwargs='{}' \\
        --config.checkpoint.keep_last=1 --config.checkpoint.keep_best=0 \\
        --config.steps_per_dispatch=7 --config.dataset.whiten=mean_image
    python main.py --mode=evaluate --workdir=runs/lenet5
"""

import json
import shutil

import numpy as np
import pytest
import runs
from PIL import Image

import data_source
from evaluation import scoring
from experiment import workdir


@pytest.fixture
def old(tmp_path):
    shutil.copytree(runs.OLD_RUN, tmp_path / "run")
    return tmp_path / "run"


def test_it_is_resumed(old):
    """It is resumed to twice its length, and its original files stay as they were."""
    config = workdir.Workdir(old).config()
    statistics = (old / "statistics.npz").read_bytes()
    with config.unlocked():
        config.num_epochs = 2.0
    done = runs.train.train(config, workdir.Workdir(old), runs.NoStop)
    assert done.step == 20 and done.result.metrics["count"] == 203
    lines = (old / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(x)["step"] for x in lines if "eval/error" in x]
    assert steps == [10, 20]
    assert (old / "statistics.npz").read_bytes() == statistics
    assert len(workdir.Workdir(old).starts()) == 2


def test_it_is_evaluated_with_the_same_logits(old):
    expected = scoring.read(old / "predictions-10.npz")
    (old / "predictions-10.npz").unlink()
    result = runs.call_main(["--mode=evaluate", f"--workdir={old}"])
    assert result.returncode == 0, result.stderr
    assert "(170 errors, 203/203 images counted) after step 10" in result.stdout
    found = scoring.read(old / "predictions-10.npz")
    np.testing.assert_array_equal(found.id, expected.id)
    np.testing.assert_array_equal(found.label, expected.label)
    # Sums in another order: other kernels, and XLA's flags of the tests.
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_it_predicts_what_its_evaluation_found(old, tmp_path):
    split = data_source.open_split("mnist", "test[:3]")
    files = [str(tmp_path / f"digit{number}.png") for number in range(3)]
    for number, file in enumerate(files):
        Image.fromarray(split.read([number])[0][0, ..., 0]).save(file)
    images = f"--images={','.join(files)}"
    result = runs.call_main(["--mode=predict", f"--workdir={old}", images])
    assert result.returncode == 0, result.stderr
    *lines, _ = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == files
    runs.assert_answers(lines, scoring.read(old / "predictions-10.npz"), range(3))


def test_it_is_exported(old):
    result = runs.call_main(["--mode=export", f"--workdir={old}"])
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (old / "export").iterdir()}
    assert {"labels.txt", "preprocessing.json", "statistics.npz"} <= names
