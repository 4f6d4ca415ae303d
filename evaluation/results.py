"""Writes the files that an evaluation leaves in a run's directory."""

import functools
import io
import re

from absl import logging

from evaluation import scoring

MOST_DRAWN_CLASSES = 100


def suffix(config, own, batch_stats):
    """Returns the part of file names that sets `config` apart from a run's `own`."""
    parts = [] if config.eval.protocol == "single" else [config.eval.protocol]
    parts += ["population"] if batch_stats == "population" else []
    for name in ("eval_split", "scales", "average", "image_size", "short_side"):
        section = "dataset" if name == "eval_split" else "eval"
        if (value := config[section][name]) != own[section][name]:
            parts.append(
                f"{name}_{re.sub('[^A-Za-z0-9]+', '_', str(value)).strip('_')}"
            )
    return "".join(f"-{part}" for part in parts)


def write(run, suffix, record, predictions):
    """Writes what an evaluation found to <run>/<name>-<suffix>; returns the names.

    The files are evaluation .json, the `record`; predictions .npz, all scores, for
    `python scoring.py`; classes .csv; confusion .csv, and .png if it can be read. The
    picture comes last, and if it cannot be drawn, a warning says why.
    """

    def binary(write):
        file = io.BytesIO()
        write(file)
        return file.getvalue()

    run.write_json(f"evaluation-{suffix}.json", record)
    files = {
        f"predictions-{suffix}.npz": binary(predictions.write),
        f"classes-{suffix}.csv": scoring.class_csv(predictions).encode(),
        f"confusion-{suffix}.csv": scoring.confusion_csv(predictions).encode(),
    }
    for name, content in files.items():
        run.write_bytes(name, content)
    names = [f"evaluation-{suffix}.json", *files]
    if len(predictions.label_names) <= MOST_DRAWN_CLASSES:
        picture = f"confusion-{suffix}.png"
        try:
            draw = functools.partial(scoring.draw_confusion, predictions)
            run.write_bytes(picture, binary(draw))
            names.append(picture)
        except Exception as error:  # a library's, for a name or a number of classes
            logging.warning("no %s: %s", picture, " ".join(repr(error).split()))
    return names
