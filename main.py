"""Trains, evaluates, uses, describes or varies a network.

    python main.py --config=configs/lenet5.py --workdir=runs/lenet5
    python main.py --mode=evaluate --workdir=runs/lenet5
    python main.py --mode=evaluate --workdir=runs/a,runs/b --change=eval.protocol=dense
    python main.py --mode=predict --workdir=runs/lenet5 --images=a.png,photos
    python main.py --mode=inspect --workdir=runs/lenet5
    python main.py --mode=demo --workdir=runs/lenet5,runs/other
    python main.py --mode=plot --workdir=runs/a,runs/b --output=curves.png
    python main.py --mode=summarize --config=configs/lenet5.py
    python main.py --mode=export --workdir=runs/lenet5 --format=onnx
    python main.py --mode=sweep --config=configs/lenet5.py:modern --workdir=runs/sweep \
        --vary=seed=0..2 --vary=optimizer.learning_rate=0.03,0.1 --jobs=2

Exit codes: 0 done; 1 failed, with one line that says why; 2 a wrong flag or config;
3 the loss is not finite; 75 told to stop by a signal, state saved, the same command
goes on.
"""

import gc
import logging
import os
import sys

from kernels import huge_pages

THRESHOLD = gc.get_threshold()
if __name__ == "__main__":
    huge_pages.start_anew()  # before the imports, which it would otherwise repeat
    gc.set_threshold(100_000, 50, 100)  # imports and traces leave little garbage
    sys.stdout.reconfigure(errors="backslashreplace")  # paths may hold any bytes

from errors import PREEMPTED, UserError, foreign  # noqa: E402
from experiment import options as flags  # noqa: E402
from experiment import peers, stopping, workdir  # noqa: E402

# Each mode maps (options, config, runs) to what is printed, and imports what it needs.


def _train(options, config, runs):
    import train

    return train.train(config, runs[0], stopping.StopSignal(), options.until)


def _evaluate(options, config, runs):
    import evaluate
    from experiment import checks

    configs = [checks.change(run.config(), options.change) for run in runs]
    chosen = options.checkpoint, options.batch_stats
    if len(runs) > 1:
        return _unless_failed(evaluate.evaluate_ensemble(runs, configs, *chosen))
    return _unless_failed(evaluate.evaluate_run(runs[0], configs[0], *chosen))


def _summarize(options, config, runs):
    from comparison import summarize

    known = None
    if options.config is None and runs[0].has("dataset.json"):
        from experiment import trained

        known = trained.dataset(runs[0])
    return summarize.summarize(config, known)


def _predict(options, config, runs):
    from analysis import predict

    return _unless_failed(
        predict.predict_run(runs[0], options.checkpoint, options.images, options.output)
    )


def _inspect(options, config, runs):
    from analysis import inspection

    images = [os.path.expanduser(path) for path in options.images]
    return _unless_failed(
        inspection.inspect_run(
            runs[0], options.checkpoint, images, options.database, options.output
        )
    )


def _unless_failed(found):
    """Returns what was found; a part that failed is an error after it is printed."""
    if found.failed:
        print(found, flush=True)
        raise UserError("; ".join(found.failed))
    return found


def _plot(options, config, runs):
    import sweep

    return sweep.plot(runs, options.output)


def _export(options, config, runs):
    from weights import export

    return export.export_run(
        runs[0], options.checkpoint, options.format, options.output
    )


def _sweep(options, config, runs):
    import sweep

    return _unless_failed(sweep.run(options, config, runs[0]))


def _demo(options, config, runs):
    from demo import serve

    address = options.host, options.port
    return serve.serve(runs, options.checkpoint, *address, options.database)


USES = _predict, _inspect, _plot, _export, _demo  # of a trained run
MODES = {m.__name__[1:]: m for m in (_train, _evaluate, _summarize, _sweep, *USES)}


def main(argv):
    """Runs what a command line asks for; returns the exit code."""
    try:
        options = flags.parse(argv)
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return 0
        with peers.ending_together():
            result = _run(options)
        if peers.is_first():
            print(result, flush=True)
        return 0
    except Exception as error:
        known = foreign.as_user_error(error)
        if known is None:
            raise
        if known.exit_code != PREEMPTED:
            print(f"error: {known}", file=sys.stderr, flush=True)
        elif peers.is_first():
            print(known, flush=True)
        return known.exit_code


def _run(options):
    runs = [workdir.Workdir(path) for path in flags.run_paths(options)]
    config = options.config
    if options.mode == "plot":
        return MODES["plot"](options, config, runs)
    if runs and (config or options.mode != "sweep"):  # which may have begun before
        config = runs[0].continued(config)
    if config:
        from experiment import checks

        checks.check(config)
    if options.mode != "summarize":
        from experiment import devices
        from kernels import ops

        ops.use(options.kernels)
        cluster = options.coordinator, options.num_processes, options.process_id
        devices.start(options.compilation_cache, options.distributed, *cluster)
    if options.mode in ("train", "sweep", "demo"):  # which run for long
        gc.set_threshold(*THRESHOLD)
    return MODES[options.mode](options, config, runs)


if __name__ == "__main__":
    logging.basicConfig(format="warning: %(message)s")
    code = main(sys.argv)
    stopping.ignore_signals()
    gc.freeze()  # the end need not look for garbage
    sys.exit(code)
