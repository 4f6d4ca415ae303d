"""Writes the answers of a prediction to a .csv or .json, or prints them.

An answer is printed by its `__str__`; `rows()` are its lines of a CSV, and `as_dict()`
is what a JSON has of it.
"""

import contextlib
import csv
import dataclasses
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
                before = itertools.chain(["\n"], itertools.repeat(",\n"))
                file.write("[")
                yield lambda answer: file.write(
                    next(before) + json.dumps(answer.as_dict())
                )
                file.write("\n]\n")
        os.replace(part, output)


@dataclasses.dataclass
class Report:
    """How many images got an answer, and where the answers are.

    `first_failure` says why the first image without an answer has none.
    """

    run: str
    step: int
    output: str | None
    answered: int = 0
    unanswered: int = 0
    first_failure: str = ""

    def count(self, answer):
        self.answered += not answer.problem
        self.unanswered += bool(answer.problem)
        self.first_failure = self.first_failure or answer.problem

    @property
    def failed(self):
        """Lists what main.py reports as an error."""
        number = self.answered + self.unanswered
        if not number:
            return ["--images names no image"]
        if not self.unanswered:
            return []
        if number == 1:
            return [self.first_failure]
        return [
            f"{self.unanswered} of {number} images have no answer; the first: "
            f"{self.first_failure}"
        ]

    def parts(self):
        """The beginning of what is said of it."""
        said = [
            f"{self.answered} of {self.answered + self.unanswered} images have answers "
            f"after step {self.step} of {self.run}"
        ]
        return said + ([f"answers: {self.output}"] if self.output else [])
