"""Defines the flags of main.py and refuses those that contradict each other."""

import os
import re
import runpy
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import default
from errors import UsageError
from experiment import configuration

MODES = "train evaluate summarize predict inspect plot export sweep demo".split()
FORMATS = ["safetensors", "torchvision", "stablehlo", "onnx"]
FILES = ("pth", "pt", "bin", "h5", "keras", "npz", "msgpack", "tflite")  # of weights
# Modes that use the run's config.
OWN_CONFIG = ("evaluate", "predict", "inspect", "plot", "export", "demo")
# The modes that read a flag; all modes take the flags that are not here.
READ_BY = {
    "checkpoint": ("evaluate", "predict", "inspect", "export", "demo"),
    "change": ("evaluate",),
    "batch_stats": ("evaluate",),
    "images": ("predict", "inspect"),
    "database": ("inspect", "demo"),
    "host": ("demo",),
    "port": ("demo",),
    "format": ("export",),
    "output": ("predict", "inspect", "plot", "export"),
    "until": ("train",),
    "vary": ("sweep",),
    "together": ("sweep",),
    "jobs": ("sweep",),
    "slurm": ("sweep",),
    "halving": ("sweep",),
    "dry_run": ("sweep",),
    "status": ("sweep",),
}
REPEATED = ("change", "vary")  # flags that may be given several times
INSPECTED = 32  # the most images that --mode=inspect draws
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/convnets/xla")


def parse(argv):
    """Parses a command line into an absl FlagValues, whose attributes are the flags.

    Raises:
      UsageError: a flag or a config does not exist, or flags contradict each other.
    """
    options = flags.FlagValues()
    parsed, later = _take_out(argv)
    _define(options, parsed)
    try:
        rest = options(parsed)
        config = options.config
        getattr(config, "seed", None)  # a recipe that cannot be run raises here
    except Exception as error:
        raise UsageError(_explained(error, _recipe(argv))) from error
    if options["config"].present and not isinstance(config, ConfigDict):
        raise UsageError(
            f"{_recipe(argv)}: get_config() must return a ConfigDict, not {config!r}"
        )
    if rest[1:]:
        raise UsageError(f"what is {rest[1]!r}? Flags start with --")
    _refuse_repeated(options, argv)
    _set(options.config, later)
    _settle_length(options.config, argv)
    options.output = options.output and os.path.expanduser(options.output)
    if not options.help:
        _check(options)
    return options


def _recipe(argv):
    """The flag that names the recipe, as --config=FILE."""
    for argument, after in zip(argv, [*argv[1:], ""], strict=True):
        if argument.startswith("--config="):
            return argument
        if argument == "--config":
            return f"{argument}={after}"
    return "--config"


def _explained(error, recipe):
    """Says what is wrong with a flag, or where an error was raised in the `_recipe`."""
    file = os.path.abspath(recipe.partition("=")[2].partition(":")[0])
    text = " ".join(str(error).split())
    places = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.abspath(frame.filename) == file
    ]
    if places:
        return f"{file}, line {places[-1]}: {type(error).__name__}: {text}"
    if "has no attribute 'get_config'" in text:
        return f"{recipe}: it has no function get_config()"
    if isinstance(error, AttributeError | KeyError):
        # ml_collections: "'lrr'\nDid you mean "lr" instead of "lrr"?"
        return f"--config has no field {' '.join(str(error.args[0]).split())}"
    lines = str(error).strip().splitlines() or [repr(error)]
    if len(lines) == 1:
        return lines[0]
    # ml_collections puts the traceback of a TypeError or ValueError into another one.
    frames = re.findall(r'File "(.+?)", (line \d+)', str(error))
    places = [line for name, line in frames if os.path.abspath(name) == file]
    where = f", {places[-1]}" if places else ""
    return f"{recipe}{where}: {lines[-1].strip()}"


def _refuse_repeated(options, argv):
    """Raises UsageError for a flag of ours that is given twice: the last would win."""
    found = [re.fullmatch(r"--?(\w+)(?:=.*)?", a, re.DOTALL) for a in argv[1:]]
    names = [match[1] for match in found if match]
    for name in names:
        if name in options and name not in REPEATED and names.count(name) > 1:
            several = name in ("workdir", "images")
            advice = "; separate several by commas" if several else ""
            raise UsageError(f"--{name} is given {names.count(name)} times{advice}")


def _take_out(argv):
    """Splits off the fields that ml_collections cannot parse: (rest, {field: text}).

    They are those of open sub-configs, which a recipe need not have, and None for a
    field that may be None.
    """
    fields = configuration.flatten(default.get_config())
    optional = [name for name, value in fields.items() if value is None]
    rest, later = [], {}
    for argument in argv:
        name, text = _field(argument)
        # A flag takes the place of earlier ones for the same field, or for its parts.
        later = {n: t for n, t in later.items() if not f"{n}.".startswith(f"{name}.")}
        none = name in optional and text == "None"
        if none or (text is not None and name.startswith(configuration.OPEN)):
            later[name] = text
        else:
            rest.append(argument)
    return rest, later


def _field(argument):
    """Returns (field, text) of "--config.field=text"; text is None without "="."""
    found = re.fullmatch(r"--?config\.([\w.]+)(?:=(.*))?", argument, re.DOTALL)
    return found.groups() if found else ("", None)


def _set(config, fields):
    """Sets {field: text} in a config.

    Raises:
      UsageError: there is no config, or a value has another type than the recipe's.
    """
    for name, text in fields.items():
        flag = f"--config.{name}={text}"
        if config is None:
            raise UsageError(f"{flag} needs --config")
        try:
            value = configuration.literal(text)
        except ValueError:
            value = text  # a word without quotes
        # Elsewhere only None comes here, for a field that may be None.
        words = isinstance(configuration.flatten(config).get(name), str)
        if words and name.startswith(configuration.OPEN):
            value = text
        value = configuration.tuples(value)  # a list would be one when it is resumed
        try:
            with config.unlocked():
                config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"{flag}: {' '.join(str(error).split())}") from error


def _settle_length(config, argv):
    """Unsets num_steps if num_epochs is the length that the command line gives last."""
    given = [
        name for name, _ in map(_field, argv) if name in ("num_epochs", "num_steps")
    ]
    if given[-1:] != ["num_epochs"] or not config or config.get("num_steps") is None:
        return
    print(
        f"note: --config.num_epochs={config.num_epochs} replaces num_steps = "
        f"{config.num_steps}"
    )
    config.num_steps = None


def _define(options, argv):
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file; fields by --config.a.b=value.",
        lock_config=True,
        flag_values=options,
        sys_argv=argv,
    )

    def defining(kind):
        def define(name, default, *arguments, **keywords):
            *values, text = arguments
            if name in READ_BY and name != "output":  # its text says it mode by mode
                text = f"{', '.join(READ_BY[name])}: {text}"
            kind(name, default, *values, text, flag_values=options, **keywords)

        return define

    boolean, integer = defining(flags.DEFINE_boolean), defining(flags.DEFINE_integer)
    string, enum = defining(flags.DEFINE_string), defining(flags.DEFINE_enum)
    several = defining(flags.DEFINE_multi_string)

    boolean("help", False, "Show this.")
    enum("mode", "train", MODES, "What to do.")
    string(
        "workdir",
        None,
        "Directory of the run; evaluate: a,b,c is an ensemble; plot: several runs; "
        "demo: one or two.",
    )
    string("checkpoint", "latest", "latest, best, or a step.")
    several(
        "change",
        [],
        "a field of the run's config to change, eval.protocol=ten_crop; may "
        "be repeated.",
    )
    enum(
        "batch_stats",
        "moving",
        ["moving", "population"],
        "statistics of batch normalisation: the moving averages of the "
        "training, or those of a pass over the training data (Ioffe and Szegedy, "
        "algorithm 2).",
    )
    defining(flags.DEFINE_list)(
        "images",
        [],
        "image files, separated by commas. predict: also folders, "
        "patterns such as 'photos/*.jpg', and - for the standard input: an image, or a "
        "list of all these, one a line.",
    )
    integer(
        "database",
        10_000,
        "how many training images to search for the nearest.",
        lower_bound=1,
    )
    string(
        "host",
        "127.0.0.1",
        "the name or IPv4 address to serve at; 0.0.0.0 lets other machines in.",
    )
    integer(
        "port",
        7860,
        "the port to serve at; 0: any that is free.",
        lower_bound=0,
        upper_bound=65535,
    )
    enum(
        "format",
        "safetensors",
        FORMATS,
        "our arrays, the state dict of torchvision's or timm's network, or the "
        "computation.",
    )
    string(
        "output",
        None,
        "predict: a .csv or .json for the answers; by default they are printed. plot: "
        "the file, of which a .png and a .svg are written; by default curves, in the "
        "first run's directory. export, inspect: the directory; by default "
        "<workdir>/export and <workdir>/inspect.",
    )
    defining(flags.DEFINE_float)(
        "until",
        1.0,
        "end at the first evaluation after this fraction of the training.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    several(
        "vary",
        [],
        "a field of the config and its values, such as seed=0..4, "
        "model.name=resnet20,nin or optimizer.learning_rate=0.01..1:log:5; may be "
        "repeated.",
    )
    integer(
        "together",
        0,
        "runs trained at once in one program; 0: all of them, but one on a CPU.",
        lower_bound=0,
    )
    integer(
        "jobs",
        None,
        "trains in this many processes at once, each with cores or a GPU of its own.",
        lower_bound=1,
    )
    string(
        "slurm",
        None,
        "submits job arrays to SLURM, partition=main,minutes=60,cpus=4,array=8.",
    )
    integer(
        "halving",
        None,
        "successive halving; 3 trains the best third three times as long.",
        lower_bound=0,
    )
    boolean("dry_run", False, "list the runs, no more.")
    boolean("status", False, "say how the runs stand.")
    enum(
        "kernels",
        "auto",
        ["auto", "xla"],
        "What computes the networks: the kernels that are quickest here, or XLA alone.",
    )
    enum(
        "distributed",
        "auto",
        ["auto", "on", "off"],
        "jax.distributed: where a cluster is detected, always, or never.",
    )
    string("coordinator", None, "host:port of process 0, if no cluster tells it.")
    integer("num_processes", None, "With --coordinator: how many processes there are.")
    integer(
        "process_id", None, "With --coordinator: the number of this process, from 0."
    )
    string(
        "compilation_cache",
        CACHE,
        "Directory of compiled programs, kept between starts; empty: none.",
    )


def _check(options):
    """Raises UsageError for flags that need a missing one or contradict another."""
    mode, config, workdir = options.mode, options.config, options.workdir
    for name, modes in READ_BY.items():
        if options[name].present and mode not in modes:
            raise UsageError(f"--{name} is for {', '.join(modes)}, not --mode={mode}")
    if mode == "predict" and not options.images:
        raise UsageError("--mode=predict needs --images=a.png,b.png")
    if mode == "inspect" and len(options.images) > INSPECTED:
        raise UsageError(
            f"--mode=inspect draws at most {INSPECTED} images, not "
            f"{len(options.images)}; --mode=predict takes any number"
        )
    _check_sweep(options)
    _check_processes(options)
    if not workdir and mode != "summarize":
        raise UsageError(f"--mode={mode} needs --workdir")
    if not workdir and config is None:
        raise UsageError(f"--mode={mode} needs --config or --workdir")
    if config is not None and mode in OWN_CONFIG:
        advice = "; --change changes a field of it" if mode == "evaluate" else ""
        raise UsageError(
            f"--mode={mode} takes the run's own config, not --config{advice}"
        )
    if mode == "predict" and options.output:
        folder, name = os.path.split(options.output)
        if not name.endswith((".csv", ".json")):
            raise UsageError(f"--output={options.output}: predict writes .csv or .json")
        if not os.path.isdir(folder or "."):
            raise UsageError(f"--output={options.output}: there is no folder {folder}")
    output = options.output or ""
    is_file = os.path.splitext(output)[1].lstrip(".") in (*FORMATS, *FILES)
    is_file |= output.endswith((".png", ".svg"))
    if mode in ("export", "inspect") and is_file and not os.path.isdir(output):
        raise UsageError(f"--output={output}: {mode} writes into a directory")


def _check_sweep(options):
    """Raises UsageError for flags of a sweep that contradict each other."""
    if options.config is None and options.vary:
        raise UsageError("--vary needs --config")
    if options.dry_run and options.status:
        raise UsageError("--dry_run and --status list the runs: choose one")
    if options.jobs and options.slurm is not None:
        raise UsageError("--jobs and --slurm are two ways to train: choose one")
    if options.together and (options.jobs or options.slurm is not None):
        raise UsageError("--together is for this process, not for --jobs or --slurm")
    if options.halving == 1:
        raise UsageError("--halving=1 leaves nothing out: 2 or more, or 0 for none")
    if options.halving and options.slurm is not None:
        raise UsageError("--halving waits for its runs: with --jobs, not with --slurm")


def _check_processes(options):
    """Raises UsageError for flags of several processes that contradict each other."""
    coordinator, number, process = (
        options[name].value for name in ("coordinator", "num_processes", "process_id")
    )
    if coordinator and options.distributed == "off":
        raise UsageError("--coordinator is for several processes: no --distributed=off")
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise UsageError(f"--coordinator={coordinator}: write host:port")
    for name in ("num_processes", "process_id"):
        if options[name].present and not (coordinator or options.distributed == "on"):
            raise UsageError(
                f"--{name} needs --coordinator=host:port of process 0, or, in a "
                "cluster that tells it, --distributed=on"
            )
    if None not in (number, process) and not 0 <= process < number:
        raise UsageError(
            f"--process_id={process}: processes are numbered from 0, and "
            f"--num_processes={number}"
        )


def own_sweep(options):
    """Returns the overrides that the config file's `sweep()` declares; none without it.

    Raises:
      UsageError: it does not return a list of dicts.
    """
    if options.config is None:
        return []
    file = config_flags.get_config_filename(options["config"])
    if not os.path.exists(file):
        file = file.partition(":")[0]  # configs/lenet5.py:modern
    try:
        declare = runpy.run_path(file).get("sweep")
        if declare is None:
            return []
        found = declare()
    except Exception as error:
        raise UsageError(_explained(error, f"--config={file}")) from error
    if not isinstance(found, list) or not all(isinstance(o, dict) for o in found):
        raise UsageError(f"sweep() of {file} must return a list of dicts")
    return found


def run_paths(options):
    """Returns the directories that --workdir names; three modes take several."""
    if not options.workdir:
        return []
    several = options.mode in ("evaluate", "plot", "demo")
    return paths(options.workdir) if several else [options.workdir]


def paths(text):
    """Splits "a,b,c" into paths; one may contain commas, as a sweep's runs do.

    Raises:
      UsageError: of several, one is no directory.
    """
    if os.path.isdir(os.path.expanduser(text)):
        return [text]
    found, path = [], ""
    for part in text.split(","):
        path = f"{path},{part}" if path else part
        if os.path.isdir(os.path.expanduser(path)):
            found.append(path)
            path = ""
    wrong, *others = path.split(",")
    if any(os.path.isdir(os.path.expanduser(other)) for other in others):
        raise UsageError(f"--workdir={text}: {wrong} is no directory")
    return [*found, path] if path else found
