"""Writes the files that an evaluation leaves in a run's directory."""

import functools
import hashlib
import io
import re

from absl import logging

from evaluation import drawing, scoring

MOST_DRAWN_CLASSES = 100

# Fields that have a short name in the name of a file, where they come first.
SHORT = {
    "dataset.eval_split": "eval_split",
    "eval.scales": "scales",
    "eval.average": "average",
    "eval.image_size": "image_size",
    "eval.short_side": "short_side",
}
# What decides the result with moving averages of batch normalisation, and with those of
# the population, which take a pass over the training batches.
DECIDES = ("dataset.", "detection.", "eval.", "loss.", "model.")
DECIDES_POPULATION = (*DECIDES, "augment.", "batch_size", "seed")
# Of these, what decides only how fast the result comes.
SPEED = (
    "dataset.cache_dir",
    "dataset.download",
    "dataset.num_threads",
    "dataset.prefetch",
    "eval.batch_size",
    "model.memory",
    "model.remat",
)


def suffix(protocol, batch_stats, changes):
    """Returns the part of file names that sets an evaluation apart from the run's own.

    It has the protocol, unless it is "single", and of the `changes`, {field: value that
    is not the run's}, all that decide the result. So another question goes into another
    file.
    """
    population = batch_stats == "population"
    parts = [] if protocol == "single" else [protocol]
    parts += ["population"] if population else []
    decides = DECIDES_POPULATION if population else DECIDES
    named = [n for n in changes if n.startswith(decides) and n not in SPEED]
    for name in [*SHORT, *sorted(set(named) - {*SHORT, "eval.protocol"})]:
        if name in named:
            short = SHORT.get(name, name.replace(".", "_"))
            parts.append(f"{short}_{_in_a_name(changes[name])}")
    return "".join(f"-{part}" for part in parts)


# Values that their letters and digits alone tell apart; others get a hash. A slice
# "test[:21]" is written test_21, so a word that ends in this way is none of them.
WORD = "[A-Za-z0-9]+(_[A-Za-z0-9]+)*"
PLAIN = re.compile(rf"(?!.*_\d+$){WORD}|{WORD}\[:\d+\]|\((\d+, )*\d+,?\)")


def _in_a_name(value):
    text = str(value)
    words = re.sub("[^A-Za-z0-9]+", "_", text).strip("_")
    if PLAIN.fullmatch(text) and len(words) <= 40:
        return words
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return f"{words[-40:]}_{digest[:8]}".strip("_")


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
            draw = functools.partial(drawing.draw_confusion, predictions)
            run.write_bytes(picture, binary(draw))
            names.append(picture)
        except Exception as error:  # a library's, for a name or a number of classes
            logging.warning("no %s: %s", picture, " ".join(repr(error).split()))
    return names
