"""Times the evaluation of each network, here and in PyTorch, in turn in one run.

    python -m benchmarks.inference [--networks=resnet50,vgg16] [--rounds=5]
    python -m benchmarks.inference --device=gpu

A call evaluates one batch that lies on the device: the forward pass with the averages
of batch normalisation, the sum of the losses, and the counts of errors. Ours also
counts the errors of each class. In a round each contestant makes one untimed call and
then several timed ones. Each network has two lines: one of batches, which are queued as
in an evaluation, and one of single images, each of which waits for the answer to the
one before. The table has the medians over the rounds of images/s and of the rounds'
ratios, and the milliseconds of a call; those of a single image are the latency. The
machine must be idle.

    ours      the evaluation step of main.py
    torch     eager PyTorch: channels last, inference_mode, with bfloat16 autocast
    compiled  the same with torch.compile of all of it

In bfloat16 the parameters stay float32 in all of them. Contestants that are not
available leave their columns empty; if a batch does not fit, all get half of it.
"""

import dataclasses
import statistics

import jax
import numpy as np
import optax

from benchmarks import side_by_side
from evaluation import eval_step
from kernels import huge_pages, ops
from training import train_step


class Ours:
    """Our evaluation step, compiled, with the variables of a new network."""

    def __init__(self, task):
        model = task.model()
        init = train_step.make_init(model, optax.identity(), task.shape, ema=False)
        self.variables = train_step.evaluation_variables(jax.jit(init)(0))
        parameters = jax.tree.leaves(self.variables["params"])
        self.parameters = sum(p.size for p in parameters)
        images, labels = task.data()
        mask = np.ones(task.batch, np.float32)
        self.batch = jax.device_put({"image": images, "label": labels, "mask": mask})
        step = eval_step.make_eval_step(
            model,
            lambda batch: batch["image"],
            optax.softmax_cross_entropy_with_integer_labels,
        )
        options = ops.compiler_options(jax.default_backend())
        jitted = jax.jit(step, compiler_options=options)
        with ops.every_kernel():
            self.program = jitted.lower(self.variables, self.batch).compile()

    def run(self, calls):
        """Evaluates the batch `calls` times; the errors in it."""
        for _ in range(calls):
            errors = self.program(self.variables, self.batch)["errors"]
            if len(self.batch["label"]) == 1:
                errors = int(errors)  # waits
        return int(errors)


class Torch(side_by_side.TorchContestant):
    """The evaluation step in PyTorch, with a new network."""

    def __init__(self, task):
        super().__init__(task)
        torch, network, cast = self.torch, self.network.eval(), self.cast

        def evaluate(images, labels):
            with torch.autocast(**cast):
                logits = network(images)
            logits = logits.float()
            score = logits.gather(1, labels[:, None])
            ahead = (logits > score).sum(1)
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            return (ahead >= 1).sum(), (ahead >= 5).sum(), loss

        self.evaluate = torch.compile(evaluate) if self.compiled else evaluate

    def run(self, calls):
        """Evaluates the batch `calls` times; the errors in it."""
        with self.torch.inference_mode():
            for _ in range(calls):
                errors, *_ = self.evaluate(self.images, self.labels)
                if len(self.labels) == 1:
                    errors = int(errors)  # waits
            return int(errors)


class Compiled(Torch):
    compiled = True


CONTESTANTS = {"torch": Torch, "compiled": Compiled, "ours": Ours}


def measure(task, names, rounds, calls):
    """Measures one network with one batch size; returns a dict that JSON takes.

    A round times `calls` calls; None means as many as fill side_by_side.SECONDS.

    Raises:
      ValueError: the contestants have different numbers of parameters.
    """
    makers = {name: CONTESTANTS[name] for name in names}
    contestants, missing = side_by_side.started(makers, task)
    rates, _ = side_by_side.in_turn(contestants, task.batch, rounds, calls)
    return {
        "network": task.network,
        "batch": task.batch,
        "images/s": rates,
        "missing": missing,
    }


def table_head(names):
    """The first two lines of the Markdown table."""
    columns = ["network", "batch", *side_by_side.rate_head(names)]
    columns += [f"{name}, ms" for name in names]
    return f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}"


def table_row(row, names):
    """A line of the table."""
    rates, batch = row["images/s"], row["batch"]
    times = {name: 1e3 * batch / statistics.median(x) for name, x in rates.items()}
    cells = [
        row["network"],
        str(batch),
        *side_by_side.rate_cells(rates, names),
        *(side_by_side.digits(times[name]) if name in times else "" for name in names),
    ]
    return f"| {' | '.join(cells)} |"


def main():
    parser = side_by_side.argument_parser(__doc__, CONTESTANTS)
    args, tasks = side_by_side.parse(parser, CONTESTANTS, CONTESTANTS)
    names = tuple(args.contestants)
    result = {
        "environment": side_by_side.environment(args.device, names),
        "dtype": args.dtype,
    }
    print(f"{result['environment']}; {args.dtype}, images/s\n")
    print(table_head(names), flush=True)
    alone = [dataclasses.replace(task, batch=1) for task in tasks]
    both = [task for pair in zip(tasks, alone, strict=True) for task in pair]
    side_by_side.measure_each(
        measure, both, args, result, lambda row: table_row(row, names)
    )


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
