"""The flags of main.py that set fields of the config, as ml_collections cannot."""

import sys

import pytest

from errors import UsageError
from experiment import options

# ml_collections loads a config by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

RECIPE = ("--config=configs/resnet_cifar.py:resnet20", "--workdir=run")  # 64,000 steps


def config(*arguments, recipe=RECIPE):
    return options.parse(["main.py", *recipe, *arguments]).config


@pytest.mark.parametrize(
    ("arguments", "length", "said"),
    [
        ((), (10.0, 64_000), ""),
        (
            ("--config.num_epochs=2",),
            (2.0, None),
            "note: --config.num_epochs=2.0 replaces num_steps = 64000\n",
        ),
        (
            ("--config.num_epochs=0",),
            (0.0, None),
            "note: --config.num_epochs=0.0 replaces num_steps = 64000\n",
        ),
        (("--config.num_steps=None",), (10.0, None), ""),
        (("--config.num_epochs=2", "--config.num_steps=7"), (2.0, 7), ""),
        (("--config.num_steps=7", "--config.num_steps=None"), (10.0, None), ""),
        (("--config.num_steps=None", "--config.num_steps=7"), (10.0, 7), ""),
        (("--config.num_epochs=2", "--config.num_steps=None"), (2.0, None), ""),
        (
            ("--config.num_steps=7", "--config.num_epochs", "2"),
            (2.0, None),
            "note: --config.num_epochs=2.0 replaces num_steps = 7\n",
        ),
    ],
)
def test_the_length_given_last_counts(arguments, length, said, capsys):
    found = config(*arguments)
    assert (found.num_epochs, found.num_steps) == length
    assert capsys.readouterr().out == said


def test_what_may_be_none_can_be_unset_where_it_is_a_word(tmp_path):
    recipe = tmp_path / "weighed.py"
    recipe.write_text(
        "from configs import default\n\ndef get_config():\n"
        "    config = default.get_config()\n"
        "    config.loss.class_weights = 'balanced'\n    return config\n"
    )
    recipe = (f"--config={recipe}", "--workdir=run")
    assert config(recipe=recipe).loss.class_weights == "balanced"
    unset = config("--config.loss.class_weights=None", recipe=recipe)
    assert unset.loss.class_weights is None


def test_a_recipe_without_fields_is_left_to_the_checks(tmp_path):
    recipe = tmp_path / "short.py"
    recipe.write_text(
        "from ml_collections import ConfigDict\n\ndef get_config():\n"
        "    return ConfigDict({'seed': 1})\n"
    )
    assert config(recipe=(f"--config={recipe}", "--workdir=run")).seed == 1


def test_what_cannot_be_none_is_refused():
    with pytest.raises(UsageError, match="num_epochs"):
        config("--config.num_epochs=None")


def flags(mode, *arguments):
    mode = f"--mode={mode}"
    return options.parse(["main.py", mode, "--workdir=run", *arguments])


@pytest.mark.parametrize(
    ("mode", "flag"),
    [
        ("train", "--checkpoint=best"),
        ("plot", "--checkpoint=7"),
        ("export", "--batch_stats=population"),
        ("predict", "--format=onnx"),
        ("evaluate", "--database=5"),
        ("train", "--halving=3"),
        ("evaluate", "--until=1"),
    ],
)
def test_a_flag_that_the_mode_does_not_read_is_refused(mode, flag):
    name = flag.partition("=")[0]
    with pytest.raises(UsageError, match=f"^{name} is for .*, not --mode={mode}$"):
        flags(mode, flag)


@pytest.mark.parametrize(
    ("mode", "given", "advice"),
    [
        ("predict", ("--images=a.png", "--images=b.png"), "; separate several by"),
        ("evaluate", ("--workdir=b",), "; separate several by commas"),
        ("predict", ("--images=a.png", "--checkpoint=3", "--checkpoint", "best"), ""),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(mode, given, advice):
    name = given[-1].partition("=")[0] if "=" in given[-1] else given[-2]
    with pytest.raises(UsageError, match=f"^{name} is given 2 times{advice}"):
        flags(mode, *given)
    twice = flags("evaluate", "--change=eval.average=logits", "--change=seed=1")
    assert len(twice.change) == 2


def test_no_more_images_are_inspected_than_can_be_drawn():
    flags("inspect", "--images=" + ",".join(["a.png"] * options.INSPECTED))
    with pytest.raises(UsageError, match="draws at most 32 images, not 33"):
        flags("inspect", "--images=" + ",".join(["a.png"] * 33))


def test_what_names_no_directory_is_named(tmp_path):
    (tmp_path / "b").mkdir()
    for text in (f"{tmp_path}/typo,{tmp_path}/b", f"{tmp_path}/b,typo,{tmp_path}/b"):
        with pytest.raises(UsageError, match="typo is no directory$"):
            options.paths(text)


def test_the_home_folder_has_its_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = flags("predict", "--images=a.png", "--output=~/answers.csv")
    assert found.output == f"{tmp_path}/answers.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import math\ndef get_config():\n    math.foo", "line 3: AttributeError: mod"),
        ("def get_config():\n    return {}['x']", "line 2: KeyError: 'x'"),
        ("assert 1 == 2", "line 1: AssertionError: "),
        ("def get_config():\n    return 1 + 'x'", "line 2: TypeError: unsupported"),
        ("x = int('a')\ndef get_config():\n    return x", "line 1: ValueError: inv"),
        ("def get_config():\n    return {}", r"get_config\(\) must return a Config"),
        ("def get_confg():\n    return 1", r"it has no function get_config\(\)"),
    ],
)
def test_an_error_of_a_recipe_names_its_line(tmp_path, text, message, monkeypatch):
    # In this process it would still have the functions of the recipe before.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    recipe = tmp_path / "mine.py"
    recipe.write_text(text)
    with pytest.raises(UsageError, match=f"{recipe}.*{message}"):
        config(recipe=(f"--config={recipe}", "--workdir=run"))


@pytest.mark.parametrize("mode", ["evaluate", "predict", "inspect", "plot", "export"])
def test_a_trained_run_takes_no_other_config(mode):
    """Its parameters may fit a network that computes something else."""
    images = ("--images=a.png",) if mode == "predict" else ()
    with pytest.raises(UsageError, match=f"^--mode={mode} takes the run's own conf"):
        flags(mode, RECIPE[0], *images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_processes=2", "--process_id=1"), "^--num_processes needs --coord"),
        (("--process_id=1",), "^--process_id needs --coordinator=host:port of"),
        (("--coordinator=h:1", "--distributed=off"), "^--coordinator is for several"),
        (("--coordinator=localhost",), "^--coordinator=localhost: write host:port$"),
        (
            ("--coordinator=h:1", "--num_processes=2", "--process_id=2"),
            "^--process_id=2: processes are numbered from 0, and --num_processes=2$",
        ),
    ],
)
def test_flags_of_several_processes_belong_together(arguments, message):
    with pytest.raises(UsageError, match=message):
        flags("train", *arguments)


def test_one_of_several_processes_needs_no_flags_but_its_own():
    one = flags(
        "train", "--coordinator=[::1]:80", "--num_processes=2", "--process_id=1"
    )
    assert (one.num_processes, one.process_id) == (2, 1)
    flags("train", "--distributed=on", "--num_processes=2")  # the cluster has the rest


def test_there_are_no_less_than_no_runs_together():
    with pytest.raises(UsageError, match="--together"):
        flags("sweep", "--together=-1")
    assert flags("sweep", "--together=0").together == 0


def test_an_export_goes_into_a_directory_of_any_name(tmp_path):
    (tmp_path / "a.onnx").mkdir()
    for name in ("v1.0", "of.resnet50", "a.onnx"):
        flags("export", f"--output={tmp_path}/{name}")
    for name in ("b.onnx", "b.pth", "v1.0/b.safetensors", "b.stablehlo"):
        with pytest.raises(UsageError, match=f"{name}: export writes into a directory"):
            flags("export", f"--output={tmp_path}/{name}")
    with pytest.raises(UsageError, match="b.png: inspect writes into a directory"):
        flags("inspect", f"--output={tmp_path}/b.png")


def test_single_arguments_of_the_optimizer_and_fields_of_the_network():
    found = config(
        "--config.optimizer.name=adam",
        "--config.optimizer.kwargs={'eps': 1e-6, 'b1': 0.5}",
        "--config.optimizer.kwargs.b1=0.95",
        "--config.model.fields.stride_on=3x3",
        "--config.model.fields.widths=[1, 2]",  # a tuple, as a resume reads it
    )
    assert found.optimizer.kwargs.to_dict() == {"eps": 1e-6, "b1": 0.95}
    fields = found.model.fields
    assert (fields.stride_on, fields.widths) == ("3x3", (1, 2))
    assert found.is_locked and found.model.fields.is_locked
    changed = config("--config.optimizer.kwargs.momentum=1")
    assert changed.optimizer.kwargs.momentum == 1.0
    assert isinstance(changed.optimizer.kwargs.momentum, float)


def test_all_arguments_at_once_replace_single_ones_before_them():
    one, all_of_them = (
        "--config.optimizer.kwargs.b1=0.9",
        "--config.optimizer.kwargs={}",
    )
    assert config(one, all_of_them).optimizer.kwargs.to_dict() == {}
    assert config(all_of_them, one).optimizer.kwargs.to_dict() == {"b1": 0.9}


def test_truths_of_arguments_are_written_as_those_of_fields():
    """The word "false" is true, so Nesterov's momentum would be on."""
    found = config(
        "--config.optimizer.kwargs.nesterov=false", "--config.model.fields.bias=True"
    )
    assert found.optimizer.kwargs.nesterov is False
    assert found.model.fields.bias is True


@pytest.mark.parametrize(
    ("arguments", "recipe", "message"),
    [
        (
            ("--config.optimizer.kwargs.momentum=much",),
            RECIPE,
            "^--config.optimizer.kwargs.momentum=much: .*float",
        ),
        (
            ("--config.optimizer.kwargs.b1=0.95",),
            ("--workdir=run", "--mode=predict", "--images=a.png"),
            "^--config.optimizer.kwargs.b1=0.95 needs --config$",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused(arguments, recipe, message):
    with pytest.raises(UsageError, match=message) as error:
        config(*arguments, recipe=recipe)
    assert "\n" not in str(error.value)
