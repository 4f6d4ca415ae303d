"""The four steps of the alternating training, from nothing to one detector."""

import json
import re
import shutil

import jax
import pytest
import runs

from experiment import checkpoints, detectors, workdir
from training import optimizers

pytestmark = pytest.mark.slow


def train_step(folder, number, **sources):
    """Trains a step in folder/NUMBER; `sources` are fields and the steps they name."""
    changes = {name: str(folder / str(step)) for name, step in sources.items()}
    return runs.train_detector(
        folder / str(number),
        variant=f"digits_step{number}",
        num_epochs=0.5,
        optimizer__ema_decay=0.0,
        model__fields__context=True,
        **changes,
    )


@pytest.fixture(scope="module")
def steps(few_digits, tmp_path_factory):
    """The folder of the runs 1 to 4, and the line with which each ended."""
    folder = tmp_path_factory.mktemp("steps")
    lines = [
        train_step(folder, 1),
        train_step(folder, 2, detection__proposals=1),
        train_step(folder, 3, init_from=2),
        train_step(folder, 4, init_from=3, detection__proposals=3),
    ]
    return folder, lines


def arrays(folder, number):
    """Parameters and statistics after a step, by path."""
    saved = checkpoints.Checkpoints(workdir.Workdir(folder / str(number)).checkpoints)
    tree, *_ = saved.restore()
    saved.close()
    tree = {name: tree[name] for name in ("params", "batch_stats")}
    return dict(zip(optimizers.paths(tree), jax.tree.leaves(tree), strict=True))


def changed(folder, before, after):
    """Where a step changed bits: "params/rpn", "params/conv4", "batch_stats/bn1"."""
    old, new = arrays(folder, before), arrays(folder, after)
    assert old.keys() == new.keys()
    paths = {path for path in new if old[path].tobytes() != new[path].tobytes()}
    found = set()
    for path in paths:
        kind, part, *_ = path.replace("backbone/", "").split("/")
        found.add(f"{kind}/{part.partition('_')[0]}")
    return found


def test_each_step_says_what_it_reached(steps):
    rpn = r"test\[:10\] recall \d+.\d % \(IoU 0.5, \d+ proposals per image\), 10/10 ima"
    whole = r"test\[:10\] mAP \d+.\d % .*, 10/10 images counted after step 3"
    for line, pattern in zip(steps[1], [rpn, whole] * 2, strict=True):
        assert re.match(f"done: {pattern}", line), line


def test_the_last_steps_share_one_trunk_to_the_bit(steps):
    """Step 3 changes the RPN alone, and step 4 conv5_x and the head alone."""
    assert changed(steps[0], 2, 3) == {"params/rpn"}
    assert changed(steps[0], 3, 4) == {"params/conv5", "params/head"}
    assert changed(steps[0], 1, 2) >= {"params/conv1", "params/conv4", "params/head"}


def test_a_step_s_report_has_its_own_losses(steps):
    for number, names in enumerate(["rpn_", "", "rpn_", ""], 1):
        lines = (steps[0] / str(number) / "metrics.jsonl").read_text().splitlines()
        found = {name for line in lines for name in json.loads(line)}
        losses = {name for name in found if name.endswith(("class_loss", "box_loss"))}
        assert losses == {f"train/{names}class_loss", f"train/{names}box_loss"}


def test_proposals_lie_beside_the_run_that_made_them(steps):
    """For training, and in step 2 for the evaluation too."""
    counts = [
        len([*(steps[0] / str(n)).glob("proposals-3-*.npz")]) for n in range(1, 5)
    ]
    assert counts == [2, 0, 1, 0]


def test_half_a_detector_is_evaluated_and_not_used(steps, tmp_path):
    for number, part in ((1, "head"), (2, "rpn")):
        run = steps[0] / str(number)
        copy = shutil.copytree(run, tmp_path / str(number))
        ended = runs.call_main(["--mode=evaluate", f"--workdir={copy}"])
        assert ended.returncode == 0, ended.stderr
        said = steps[1][number - 1].removeprefix("done: ").partition(";")[0]
        assert said in ended.stdout
        ended = runs.call_main(["--mode=export", f"--workdir={copy}"])
        assert ended.returncode == 2 and f"its {part} is as init" in ended.stderr


def test_the_last_step_is_a_detector_by_itself(steps, tmp_path):
    """What step 3 would propose to it, it proposes itself."""
    copy = shutil.copytree(steps[0] / "4", tmp_path / "4")
    ended = runs.call_main(["--mode=evaluate", f"--workdir={copy}"])
    assert ended.returncode == 0, ended.stderr
    said = steps[1][3].removeprefix("done: ").partition(";")[0]
    assert said in ended.stdout and "proposals:" not in ended.stdout
    opened = detectors.open_run(workdir.Workdir(copy))
    assert opened.preprocessing.view.max_proposals == 0
