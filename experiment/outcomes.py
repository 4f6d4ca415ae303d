"""How a training ended, in result.json; and why it failed, in failure.json.

result.json holds the last evaluation: its metrics, the step and how many there are
("of"), the split and its size, and "score", which names the metric that counts. A run
whose loss was not finite has {"step": s, "diverged": true}.
"""

FILE, FAILURE = "result.json", "failure.json"


def write(run, step, total, result):
    """Writes the evaluation `result` after `step` of `total`; returns it as a dict.

    It replaces what an earlier start of the run says of a failure.
    """
    outcome = {
        "step": step,
        "of": total,
        "split": result.split,
        "size": result.size,
        "score": result.score,
        **result.metrics,
    }
    run.write_json(FILE, outcome)
    (run.path / FAILURE).unlink(missing_ok=True)
    return outcome


def write_diverged(run, step):
    """Writes that the loss of `step` was not finite; returns it as a dict."""
    outcome = {"step": step, "diverged": True}
    run.write_json(FILE, outcome)
    return outcome


def read(run):
    """Returns what result.json holds, or None if there is none."""
    return run.read_json(FILE) if run.has(FILE) else None


def ended(outcome):
    """True if nothing is left to train; an earlier version wrote no other results."""
    return "diverged" in outcome or outcome["step"] == outcome.get(
        "of", outcome["step"]
    )


def score(outcome):
    """Returns the metric that counts, lower is better; infinity if it diverged."""
    if "diverged" in outcome:
        return float("inf")
    return outcome.get(outcome.get("score", "error"), float("inf"))


def write_failure(run, exit_code, error):
    """Writes why a run failed, for who looks at its directory."""
    run.write_json(FAILURE, {"exit_code": exit_code, "error": error})


def clear(run, total):
    """Removes what a training towards `total` steps makes untrue."""
    (run.path / FAILURE).unlink(missing_ok=True)
    outcome = read(run)
    if outcome is not None and outcome.get("of") != total:
        (run.path / FILE).unlink()
