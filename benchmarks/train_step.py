"""Times a training step of each network, here and in PyTorch, in turn in one run.

    python -m benchmarks.train_step [--networks=resnet50,vgg16] [--rounds=5]
    python -m benchmarks.train_step --device=gpu

A step is the forward pass, loss, gradients, batch statistics, and SGD with momentum and
weight decay, on one batch that lies on the device. In a round each contestant of a
network makes one untimed step and then several timed ones; the table has the medians
over the rounds of its images/s and of the rounds' ratios. The machine must be idle.

    ours      the programs of main.py
    plain     the same with XLA's own convolutions, which nn.Conv uses
    torch     eager PyTorch: channels last, fused optimizer, with bfloat16 autocast
    compiled  the same with torch.compile of forward and loss

"same bits" says whether our step, run twice from the same state, gives identical bits
in all parameters, in their momentum, which contains the gradients, and in the batch
statistics. If not, it says which differ: only those of layers before a max pooling, if
its gradient is the cause. This measures the cost of XLA's deterministic operations:

    XLA_FLAGS=--xla_gpu_deterministic_ops=true python -m benchmarks.train_step \\
        --device=gpu --contestants=ours

TFLOP/s are 6 times the multiply-adds of the network's table: two operations each, for
the forward pass and two gradients. GB/s count the bytes that XLA says our program reads
and writes. The header has the machine's limits: a large product of matrices and a large
copy, in both frameworks. Contestants that are not available, say without PyTorch, leave
their columns empty; if a batch does not fit, all contestants get half of it.
"""

import contextlib
import math
import statistics
import time
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from benchmarks import side_by_side
from benchmarks.side_by_side import digits
from comparison import counting
from errors import shortened
from kernels import huge_pages, ops
from models import layers
from training import objective, optimizers, train_step

AUXILIARY_WEIGHT = 0.3
SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}


class Ours:
    """Our training step, compiled, with its state."""

    def __init__(self, task):
        model = task.model()
        tx = optimizers.make_optimizer(
            "sgd",
            SGD["lr"],
            kwargs={"momentum": SGD["momentum"]},
            weight_decay=SGD["weight_decay"],
        )
        self.task = objective.Classification(
            model,
            optax.softmax_cross_entropy_with_integer_labels,
            lambda batch, seed: batch["image"],
            auxiliary_weight=AUXILIARY_WEIGHT,
        )
        step = train_step.make_train_step(self.task, tx)
        run_steps = train_step.make_run_steps(step, lambda data, i: data)
        init = train_step.make_init(model, tx, task.shape, ema=False)
        images, labels = task.data()
        self.batch = jax.device_put({"image": images, "label": labels})
        self.state = jax.jit(init)(0)
        self.parameters = sum(p.size for p in jax.tree.leaves(self.state.params))
        self.program = self._compile(run_steps)

    def _options(self):
        return ops.compiler_options(jax.default_backend())

    def _compile(self, run_steps):
        jitted = jax.jit(
            run_steps,
            donate_argnums=(0, 1),
            static_argnums=3,
            compiler_options=self._options(),
        )
        sums = train_step.zero_sums(self.task)
        with ops.every_kernel():
            return jitted.lower(self.state, sums, self.batch, 1, 0).compile()

    def run(self, num_steps):
        """Trains on; the mean loss."""
        sums = train_step.zero_sums(self.task)
        for _ in range(num_steps):
            self.state, sums = self.program(self.state, sums, self.batch, 0)
        return float(sums["loss"]) / (num_steps * len(self.batch["label"]))

    def bytes_accessed(self):
        """The bytes that XLA counts for a step; NaN if it does not count."""
        return (self.program.cost_analysis() or {}).get("bytes accessed", math.nan)

    def different_bits(self):
        """Names of the arrays that differ when the same step runs a second time."""
        results = []
        for _ in range(2):
            state = jax.tree.map(jnp.copy, self.state)
            state, _ = self.program(
                state, train_step.zero_sums(self.task), self.batch, 0
            )
            results.append(jax.device_get(state))
        return side_by_side.different_bits(*results)


@contextlib.contextmanager
def plain_convolutions():
    """Networks called inside this context use `lax`'s convolutions, like nn.Conv."""
    post_init = layers.Conv.__post_init__

    def plain_post_init(self):
        self.conv_general_dilated = jax.lax.conv_general_dilated
        post_init(self)

    with mock.patch.object(layers.Conv, "__post_init__", plain_post_init):
        yield


class Plain(Ours):
    def __init__(self, task):
        with plain_convolutions():
            super().__init__(task)

    def _options(self):
        return None  # XLA chooses the libraries for its own convolutions


class Torch(side_by_side.TorchContestant):
    """The step in PyTorch, with its state."""

    def __init__(self, task):
        super().__init__(task)
        torch, network, images = self.torch, self.network, self.images
        labels, cast = self.labels, self.cast
        optimizer = torch.optim.SGD(network.parameters(), **SGD, fused=True)

        def mean_loss(images):
            entropy = torch.nn.functional.cross_entropy
            with torch.autocast(**cast):
                outputs = network(images)
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = entropy(logits.float(), labels)
            for head in auxiliary:
                loss = loss + AUXILIARY_WEIGHT * entropy(head.float(), labels)
            return loss

        if self.compiled:
            mean_loss = torch.compile(mean_loss)

        def step():
            optimizer.zero_grad()
            loss = mean_loss(images)
            loss.backward()
            optimizer.step()
            return loss.detach()

        self.step = step

    def run(self, num_steps):
        """Trains on; the mean loss."""
        return float(sum(self.step() for _ in range(num_steps))) / num_steps


class Compiled(Torch):
    compiled = True


CONTESTANTS = {"torch": Torch, "compiled": Compiled, "ours": Ours, "plain": Plain}
GPU_CONTESTANTS = ("torch", "compiled", "ours")


def measure(task, names, rounds, num_steps):
    """Measures one network; returns a dict that JSON takes.

    A round times `num_steps` steps; None means as many as fill SECONDS.

    Raises:
      ValueError: the contestants have different numbers of parameters.
    """
    makers = {name: CONTESTANTS[name] for name in names}
    contestants, missing = side_by_side.started(makers, task)
    rates, losses = side_by_side.in_turn(contestants, task.batch, rounds, num_steps)
    table = counting.layers(task.model(), task.shape)
    ours = contestants["ours"]
    return {
        "network": task.network,
        "batch": task.batch,
        "images/s": rates,
        "losses": losses,
        "missing": missing,
        "flop/step": 6 * task.batch * sum(layer.multiply_adds for layer in table),
        "bytes/step": ours.bytes_accessed(),
        "differs": ours.different_bits(),
    }


def ceilings(task, names):
    """Measures {framework: (FLOP/s of a product of matrices, bytes/s of a copy)}."""
    size, numbers = (8192, 2**29) if task.device == "gpu" else (2048, 2**25)
    # A card draws less power, and runs faster, where all numbers are equal.
    draw = jax.jit(jax.random.normal, static_argnums=(1, 2))
    x = draw(jax.random.key(0), (size, size), task.dtype)
    y = draw(jax.random.key(1), (numbers,), task.dtype)
    flops, traffic = 2 * size**3, 2 * y.nbytes
    product, negative = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    wait = jax.block_until_ready
    found = {
        "jax": (
            flops / seconds_of(lambda: product(x, x), wait),
            traffic / seconds_of(lambda: negative(y), wait),
        )
    }
    if not {"torch", "compiled"} & set(names):
        return found
    with contextlib.suppress(side_by_side.Missing):
        torch, device = side_by_side.import_torch(task.device)
        dtype = getattr(torch, task.dtype)
        u = torch.randn((size, size), dtype=dtype, device=device)
        v = torch.randn(numbers, dtype=dtype, device=device)
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        found["torch"] = (
            flops / seconds_of(lambda: u @ u, lambda _: wait()),
            traffic / seconds_of(lambda: torch.neg(v), lambda _: wait()),
        )
    return found


def seconds_of(call, wait, calls=5):
    """The seconds of one call, in the quickest of three series."""
    wait(call())
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            last = call()
        wait(last)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def table_head(names, prefix):
    """The first two lines of the Markdown table."""
    columns = ["network", "batch", *side_by_side.rate_head(names)]
    columns += [f"{prefix}FLOP/s", "GB/s"]
    head = " | ".join([*columns, "same bits"])
    return f"| {head} |\n|---|{'---:|' * (len(columns) - 1)}---|"


def table_row(row, names, unit):
    """A line of the table, with FLOP/s in multiples of `unit`."""
    steps = statistics.median(row["images/s"]["ours"]) / row["batch"]
    cells = [
        row["network"],
        str(row["batch"]),
        *side_by_side.rate_cells(row["images/s"], names),
        digits(row["flop/step"] * steps / unit),
        digits(row["bytes/step"] * steps / 1e9),
        f"not of {shortened(row['differs'])}" if row["differs"] else "yes",
    ]
    return f"| {' | '.join(cells)} |"


def main():
    parser = side_by_side.argument_parser(__doc__, CONTESTANTS)
    args, tasks = side_by_side.parse(parser, CONTESTANTS, GPU_CONTESTANTS)
    names = args.contestants
    result = {
        "environment": side_by_side.environment(args.device, names),
        "dtype": args.dtype,
        "ceilings": ceilings(tasks[0], names),
    }
    print(f"{result['environment']}; {args.dtype}, images/s")
    prefix, unit = ("T", 1e12) if args.device == "gpu" else ("G", 1e9)
    for framework, (flops, traffic) in result["ceilings"].items():
        print(
            f"{framework}: product of matrices {digits(flops / unit)} {prefix}FLOP/s, "
            f"copy {digits(traffic / 1e9)} GB/s"
        )
    print(f"\n{table_head(names, prefix)}", flush=True)
    side_by_side.measure_each(
        measure, tasks, args, result, lambda row: table_row(row, names, unit)
    )


if __name__ == "__main__":
    huge_pages.start_anew()  # as main.py does
    main()
