"""Turns the predictions of an evaluation into errors, class tables and files.

Scores prediction files again, several of them also as an ensemble:

    python scoring.py runs/a/predictions-500.npz runs/b/predictions-500.npz
        [--average=logits]
"""

import argparse
import csv
import dataclasses
import io
import sys
from zipfile import BadZipFile

import numpy as np

from data_source import classes
from errors import UserError


class PredictionsError(UserError):
    """The predictions cannot be read, scored or averaged."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The scores of a split's examples, in its order.

    id [N] names the examples; label is int32 [N]; logits are float32 [N, K],
    not-a-number where there is no answer. `average` says how they were averaged over
    views: "logits": mean of logits; "softmax": log of the mean probabilities. `loss` is
    config.loss.name of the network, "" in files of earlier versions.
    """

    id: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    label_names: np.ndarray
    average: str
    loss: str = ""

    def __post_init__(self):
        arrays = self.logits, self.id, self.label, self.label_names
        scores, *others = map(np.shape, arrays)
        if len(scores) != 2 or others != [scores[:1], scores[:1], scores[1:]]:
            raise PredictionsError(
                f"logits of the shape {scores} do not belong to ids, labels and names "
                f"of classes of the shapes {', '.join(map(str, others))}"
            )
        if ((self.label < 0) | (self.label >= self.logits.shape[1])).any():
            raise PredictionsError("labels are not classes: the split has no labels")

    def write(self, file):
        """Writes a .npz of the fields."""
        np.savez(file, **{f.name: getattr(self, f.name) for f in FIELDS})


FIELDS = dataclasses.fields(Predictions)
WORDS = ("average", "loss")  # the fields that are no arrays
UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile)


def read(path):
    """Reads the Predictions from a file.

    Raises:
      PredictionsError: the file holds no predictions.
    """
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            names = [f.name for f in FIELDS if f.name in file or f.name != "loss"]
            values = {name: file[name] for name in names}
        words = {name: str(values[name]) for name in names if name in WORDS}
        return Predictions(**values | words)
    except (*UNREADABLE, PredictionsError) as error:
        raise PredictionsError(f"{path} holds no predictions: {error}") from error


def measures(images, hits, answers, errors, top5_errors, count):
    """Returns the errors of `count` images, and measures that weigh classes equally.

    Args:
      images, hits, answers: counts of each class, int [K]: its images, those that were
        found, and the answers that name it.
      errors, top5_errors: images of all classes whose class is not the first, or not
        among the first five.

    Returns:
      A dict of error, top5_error, balanced_error and macro_f1 in per cent; the numbers
      errors, top5_errors and count; and imbalance, how many times more images the
      largest class has than the smallest. With five classes or fewer every answer is
      among the first five, so there is no top-5. balanced_error is the mean of the
      classes' errors, and macro_f1 that of their F1, 2 hits / (images + answers), each
      over the classes that have images.
    """
    top5 = len(images) > 5
    if not sum(images):  # of no image the class is known: as if it were one class
        images, hits, answers = [count], [0], [0]
    images, hits, answers = (
        np.asarray(x, np.int64)[np.asarray(images) > 0] for x in (images, hits, answers)
    )
    found = {
        "error": 100 * errors / count,
        "top5_error": 100 * top5_errors / count,
        "balanced_error": 100 * float(np.mean((images - hits) / images)),
        "macro_f1": 100 * float(np.mean(2 * hits / (images + answers))),
        "errors": errors,
        "top5_errors": top5_errors,
        "count": count,
        "imbalance": float(images.max() / images.min()),
    }
    return {name: x for name, x in found.items() if top5 or not name.startswith("top5")}


def describe_classes(result):
    """Says the measures of equal classes if one has twice the images of another.

    `result` is of `measures`; one of an earlier version says nothing.
    """
    if result.get("imbalance", 1.0) < 2:
        return ""
    return (
        f"balanced error {result['balanced_error']:.2f} %, macro F1 "
        f"{result['macro_f1']:.2f} %"
    )


def score(predictions):
    """Returns the `measures` of predictions.

    Among equal scores the class of lower number counts as higher, as in argmax.
    """
    logits, labels = predictions.logits, predictions.label
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(1)
    answered = ~np.isnan(logits).any(1)
    count = len(labels)
    errors = count - int((answered & (rank < 1)).sum())
    top5_errors = count - int((answered & (rank < 5)).sum())
    table = confusion(predictions)
    images, answers = table.sum(1), table.sum(0)[:-1]
    hits = np.diagonal(table)
    return measures(images, hits, answers, errors, top5_errors, count)


def confusion(predictions):
    """Counts images of class i called j, int64 [K, K + 1]; column K has no answer."""
    logits, labels = predictions.logits, predictions.label
    classes = logits.shape[1]
    answer = np.where(np.isnan(logits).any(1), classes, logits.argmax(1))
    counts = np.zeros((classes, classes + 1), np.int64)
    np.add.at(counts, (labels, answer), 1)
    return counts


def class_table(predictions):
    """Returns rows (class name, images, errors, error in per cent) in class order.

    A class without images has an error of not-a-number.
    """
    counts = confusion(predictions)
    images = counts.sum(1)
    errors = images - np.diagonal(counts)
    return [
        (str(name), n, wrong, 100 * wrong / n if n else float("nan"))
        for name, n, wrong in zip(
            predictions.label_names, images.tolist(), errors.tolist(), strict=True
        )
    ]


def worst_classes(predictions, number=5):
    """Returns the classes with the largest error as lines of text, or ""."""
    rows = [row for row in class_table(predictions) if row[2]]
    rows = sorted(rows, key=lambda row: -row[3])[:number]
    width = max((len(row[0]) for row in rows), default=0)
    return "\n".join(
        f"  {name:{width}}  {error:6.2f} %  {errors} of {images}"
        for name, images, errors, error in rows
    )


def log_normalized(x):
    """Turns logits or unnormalized log probabilities [N, K] into log probabilities."""
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def csv_text(header, rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def class_csv(predictions):
    return csv_text(("class", "images", "errors", "error"), class_table(predictions))


def confusion_csv(predictions):
    """Writes a row for each true class and a column for each answer."""
    names = [str(name) for name in predictions.label_names]
    rows = confusion(predictions).tolist()
    rows = [[name, *row] for name, row in zip(names, rows, strict=True)]
    return csv_text(["class", *names, "(no answer)"], rows)


def ensemble(members, average="softmax", report=print):
    """Averages the Predictions of several networks, all with the same weight.

    average "softmax" averages their probabilities, "logits" their logits. Members whose
    classes come in another order are brought into the order of the first, which is
    reported.

    Raises:
      PredictionsError: they are not for the same classes, or not for the same examples
        in the same order; or "softmax" is asked of what are no log probabilities.
    """
    first = members[0]
    for number, member in enumerate(members, 1):
        if average == "softmax" and member.loss not in ("", "softmax_cross_entropy"):
            raise PredictionsError(
                f"number {number} of the ensemble learnt by the loss {member.loss!r}, "
                "whose outputs are no log probabilities: average logits"
            )
        if average == "softmax" and not member.loss:
            report(
                f"note: number {number} of the ensemble, of an earlier version, does "
                "not say its loss, which is taken for one of log probabilities"
            )
        if average == "logits" and member.average == "softmax":
            report(
                f"note: number {number} of the ensemble has log probabilities, which "
                "were averaged over views, in place of logits"
            )
    for number, other in enumerate(members[1:], 2):
        if not np.array_equal(other.label_names, first.label_names):
            members = [*members]
            other = members[number - 1] = _renumbered(other, first, number)
            report(
                f"note: number {number} of the ensemble has the classes of number 1 in "
                "another order; they are numbered as there"
            )
        for field in ("id", "label"):
            mine, theirs = getattr(first, field), getattr(other, field)
            if not np.array_equal(mine, theirs):
                raise PredictionsError(
                    f"number 1 and number {number} of the ensemble differ in {field}: "
                    "they must be of the same examples in the same order"
                )
    logits = [member.logits.astype(np.float64) for member in members]
    if average == "softmax":
        total = np.log(sum(np.exp(log_normalized(x)) for x in logits) / len(logits))
    else:
        total = sum(logits) / len(logits)
    return dataclasses.replace(first, logits=total.astype(np.float32), average=average)


def _renumbered(predictions, first, number):
    """Returns `predictions`, those of a `number`, with their classes as in `first`."""
    own, names = predictions.label_names.tolist(), first.label_names.tolist()
    places = classes.numbers(own, names)
    if places is None or len(own) < len(names):
        raise PredictionsError(
            f"number 1 and number {number} of the ensemble have other classes: "
            f"{classes.compared(names, own)}"
        )
    return dataclasses.replace(
        predictions,
        label=np.array(places, predictions.label.dtype)[predictions.label],
        logits=predictions.logits[:, np.argsort(places)],
        label_names=first.label_names,
    )


def describe(result):
    """Returns the errors of `score` in words."""
    first, counts = f"error {result['error']:.2f} %", f"{result['errors']}"
    if "top5_error" in result:
        first += f", top-5 {result['top5_error']:.2f} %"
        counts += f" and {result['top5_errors']}"
    if classes := describe_classes(result):
        first += f", {classes}"
    return f"{first} ({counts} errors of {result['count']})"


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python scoring.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", help="predictions-*.npz")
    parser.add_argument(
        "--average", choices=("softmax", "logits"), help="of several files (softmax)"
    )
    arguments = parser.parse_args(argv)
    paths = arguments.files
    if arguments.average and len(paths) == 1:
        parser.error("--average is of an ensemble: name several files")
    try:
        members = [read(path) for path in paths]
        for path, member in zip(paths, members, strict=True):
            print(f"{path}: {describe(score(member))}")
        if len(members) > 1:
            total = ensemble(members, arguments.average or "softmax")
            print(f"ensemble: {describe(score(total))}")
    except PredictionsError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
