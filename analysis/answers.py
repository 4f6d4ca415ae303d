"""Writes the answers of a prediction to a .csv or .json, or prints them.

An answer is printed by its `__str__`; `rows()` are its lines of a CSV, and `as_dict()`
is what a JSON has of it.
"""

import contextlib
import csv
import itertools
import json
import os

import jax


@contextlib.contextmanager
def to(output, header):
    """Gives the function that writes an answer to a .csv or .json, or prints it.

    The file is <output>.part until all answers are in it. Of several processes only
    the first writes.

    Args:
      output: the file; None prints.
      header: the columns of a CSV.
    """
    if jax.process_index():
        yield lambda answer: None
    elif output is None:
        yield lambda answer: print(answer, flush=True)
    else:
        part = f"{output}.part"
        # A name that is no UTF-8 keeps its bytes.
        kept = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
        with open(part, "w", **kept) as file:
            if output.endswith(".csv"):
                lines = csv.writer(file)
                lines.writerow(header)
                yield lambda answer: lines.writerows(answer.rows())
            else:
                with _json(file) as write:
                    yield write
        os.replace(part, output)


@contextlib.contextmanager
def _json(file):
    file.write("[")
    before = itertools.chain(["\n"], itertools.repeat(",\n"))
    yield lambda answer: file.write(next(before) + json.dumps(answer.as_dict()))
    file.write("\n]\n")


def failed(answered, unanswered, first):
    """Lists what main.py reports as an error; `first` is why the first one failed."""
    number = answered + unanswered
    if not number:
        return ["--images names no image"]
    if not unanswered:
        return []
    if number == 1:
        return [first]
    return [f"{unanswered} of {number} images have no answer; the first: {first}"]
