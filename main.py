"""Trains, evaluates, uses, describes or varies a network.

    python main.py --config=configs/lenet5.py --workdir=runs/lenet5
    python main.py --mode=evaluate --workdir=runs/lenet5
    python main.py --mode=evaluate --workdir=runs/a,runs/b --change=eval.protocol=dense
    python main.py --mode=predict --workdir=runs/lenet5 --images=a.png,b.png
    python main.py --mode=inspect --workdir=runs/lenet5
    python main.py --mode=plot --workdir=runs/a,runs/b --output=curves.png
    python main.py --mode=summarize --config=configs/lenet5.py
    python main.py --mode=export --workdir=runs/lenet5 --format=onnx
    python main.py --mode=sweep --config=configs/lenet5.py:modern --workdir=runs/sweep \
        --vary=seed=0,1,2 --vary=optimizer.learning_rate=0.03,0.1

Exit codes: 0 done; 1 failed, with one line that says why; 2 a wrong flag or config;
3 the loss is not finite; 75 told to stop (SIGTERM, Ctrl-C), state saved, the same
command goes on.
"""

import os
import sys

import huge_pages

if __name__ == "__main__":
    huge_pages.start_anew()  # ahead of the imports, which it would pay for twice

from absl import app, flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

FAILED, USAGE, NOT_FINITE, PREEMPTED = 1, 2, 3, 75

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; fields by --config.a.b=value.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; evaluate: a,b,c is an ensemble of runs; plot: several runs.",
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [
        *("train", "evaluate", "summarize", "predict", "inspect", "plot", "export"),
        "sweep",
    ],
    "What to do.",
)
_VARY = flags.DEFINE_multi_string(
    "vary",
    [],
    "sweep: a field of the config and its values, seed=0,1,2; may be repeated.",
)
_TOGETHER = flags.DEFINE_integer(
    "together",
    0,
    "sweep: runs trained at once in one program; 0: all of them, on a CPU one.",
)
_IMAGES = flags.DEFINE_list(
    "images", [], "predict, inspect: image files, comma between them."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "latest",
    "evaluate, predict, inspect, export: latest, best, or a step.",
)
_DATABASE = flags.DEFINE_integer(
    "database",
    10_000,
    "inspect: how many training images to search for the nearest.",
    lower_bound=1,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "safetensors",
    ["safetensors", "torchvision", "stablehlo", "onnx"],
    "export: our arrays, the state dict of torchvision's or timm's network, or the "
    "computation.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "plot: the file, of which a .png and a .svg are written; by default curves, in the "
    "first run's directory. export: the directory; by default <workdir>/export.",
)
_BATCH_STATS = flags.DEFINE_enum(
    "batch_stats",
    "moving",
    ["moving", "population"],
    "evaluate: statistics of batch normalisation: the moving averages of the training, "
    "or those of a pass over the training data (Ioffe and Szegedy, algorithm 2).",
)
_CHANGE = flags.DEFINE_multi_string(
    "change",
    [],
    "evaluate: a field of the run's config to change, eval.protocol=ten_crop; may be "
    "repeated.",
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "jax.distributed: where a cluster is detected, always, or never.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where no cluster tells it."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
_PROCESS = flags.DEFINE_integer("process_id", None, "With --coordinator.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/convnets/xla"),
    "Directory of compiled programs, kept between starts; empty: none.",
)


def main(argv):
    logging.set_verbosity(logging.WARNING)
    mode, run = _MODE.value, None
    if argv[1:]:
        _fail(USAGE, f"what is {argv[1]!r}? Flags start with --")
    if mode == "predict" and not _IMAGES.value:
        _fail(USAGE, "--mode=predict needs --images=a.png,b.png")
    if mode == "sweep" and (_CONFIG.value is None or not _VARY.value):
        _fail(USAGE, "--mode=sweep needs --config and --vary=field=value,value")
    if not _WORKDIR.value and mode != "summarize":
        _fail(USAGE, f"--mode={mode} needs --workdir")
    workdirs = _runs(_WORKDIR.value or "") if mode == "evaluate" else [_WORKDIR.value]
    if len(workdirs) > 1 and _CONFIG.value is not None:
        _fail(
            USAGE,
            "the runs of an ensemble have their own configs: --change instead of "
            "--config",
        )
    if _CONFIG.value is not None and mode in ("predict", "inspect", "plot", "export"):
        _fail(USAGE, f"--mode={mode} takes the run's own config, not --config")
    if mode == "export" and os.path.splitext(_OUTPUT.value or "")[1]:
        _fail(USAGE, f"--output={_OUTPUT.value}: export writes into a directory")
    if _CHANGE.value and mode != "evaluate":
        _fail(USAGE, f"--change is for --mode=evaluate, not --mode={mode}")
    images = [os.path.expanduser(path) for path in _IMAGES.value]
    if not _WORKDIR.value and _CONFIG.value is None:
        _fail(USAGE, f"--mode={mode} needs --config or --workdir")

    # What a mode needs is imported once the flags are known to be right.
    import checkpoints
    import configuration
    import data_source
    import scoring
    import workdir
    from weights import formats

    try:
        if mode == "plot":
            import plot

            print(plot.plot_runs(_runs(_WORKDIR.value), _OUTPUT.value))
            return
        if _WORKDIR.value:
            run = workdir.Workdir(workdirs[0])
        config = run.config() if _CONFIG.value is None else _CONFIG.value
        configuration.check(config)
        if mode == "summarize":
            from comparison import summarize

            print(summarize.summarize(config).text())
            return
        import jax

        _start_jax()
        if mode == "train":
            _train(config, run)
        elif mode == "evaluate":
            import evaluate

            runs = [run, *map(workdir.Workdir, workdirs[1:])]
            configs = [config, *(run.config() for run in runs[1:])]
            configs = [configuration.change(c, _CHANGE.value) for c in configs]
            options = _CHECKPOINT.value, _BATCH_STATS.value
            if len(runs) > 1:
                text = evaluate.evaluate_ensemble(runs, configs, *options)
            else:
                text = evaluate.evaluate_run(run, configs[0], *options)
            if jax.process_index() == 0:
                print(text)
        elif mode == "inspect":
            from looking import inspection

            try:
                print(
                    inspection.inspect_run(
                        run, _CHECKPOINT.value, images, _DATABASE.value
                    )
                )
            except inspection.InspectionError as error:
                _fail(FAILED, error)
        elif mode == "sweep":
            import sweep

            print(sweep.sweep(config, run, _VARY.value, _TOGETHER.value))
        elif mode == "export":
            from weights import export

            print(
                export.export_run(run, _CHECKPOINT.value, _FORMAT.value, _OUTPUT.value)
            )
        else:
            import predict

            print(predict.predict_run(run, _CHECKPOINT.value, images))
    except configuration.ConfigError as error:
        _fail(USAGE, error)
    except (
        checkpoints.CheckpointError,
        checkpoints.IncompatibleCheckpoint,
        data_source.DataError,
        formats.WeightsError,
        scoring.PredictionsError,
        workdir.WorkdirError,
    ) as error:
        _fail(FAILED, error)
    except OSError as error:
        if error.strerror is None:
            raise
        _fail(FAILED, f"{error.filename or run}: {error.strerror}")


def _runs(text):
    """The paths in "a,b,c"; one may have commas of its own, as a sweep's runs do."""
    if os.path.isdir(os.path.expanduser(text)):
        return [text]
    found, path = [], ""
    for part in text.split(","):
        path = f"{path},{part}" if path else part
        if os.path.isdir(os.path.expanduser(path)):
            found.append(path)
            path = ""
    return [*found, path] if path else found


def _train(config, run):
    import jax

    import configuration
    import memory
    import train

    configuration.check_devices(config, jax.device_count(), jax.process_count())
    try:
        line = train.train(config, run, train.StopSignal())
        if jax.process_index() == 0:
            print(line, flush=True)
    except train.NonFiniteLoss as error:
        _fail(NOT_FINITE, error)
    except memory.OutOfMemory as error:
        _fail(FAILED, error)
    except train.Preempted as error:
        if jax.process_index() == 0:
            print(error, flush=True)
        sys.exit(PREEMPTED)


def _start_jax():
    """The distributed runtime and the compilation cache, ahead of any computation."""
    import jax

    if _CACHE.value:
        cache = os.path.expanduser(_CACHE.value)
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if _COORDINATOR.value or _DISTRIBUTED.value == "on":
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    elif _DISTRIBUTED.value == "auto" and _cluster_detected():
        jax.distributed.initialize()


def _cluster_detected():
    """True in one of several tasks of srun or of Open MPI's mpirun."""
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return any(os.environ.get(name, "1") not in ("", "1") for name in tasks)


def _parse(argv):
    """absl's parser, with one line on stderr for anything wrong with the config."""
    try:
        argv = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.seed  # noqa: B018  a file that cannot be read raises here
        return argv
    except (AttributeError, KeyError) as error:
        # ml_collections: "'lrr'\nDid you mean "lr" instead of "lrr"?"
        message = " ".join(str(error.args[0]).split())
        _fail(USAGE, f"--config has no field {message}")
    except Exception as error:
        lines = str(error).strip().splitlines()
        if len(lines) == 1:
            _fail(USAGE, lines[0])
        file = next((a for a in argv if a.startswith("--config=")), "--config")
        _fail(USAGE, f"{file}: {lines[-1].strip()}")


def _fail(code, error):
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
