"""The messages about memory: before a step, and when there is too little."""

import gc
import os
import pathlib
import platform
import re

import jax
import numpy as np
import pytest
import runs

import train
from errors import ConfigError, foreign
from evaluation import evaluator
from experiment import programs, workdir
from models import resnet
from training import memory

DEVICE = jax.devices()[0]
V1 = ("limit_in_bytes", "usage_in_bytes")


@pytest.fixture(scope="module", autouse=True)
def resnet8():
    """Leaves resnet20 one block in each stage: it compiles in a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.CIFAR, 20, (1, 1, 1))
        yield


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A trainer of ResNet-8 that has planned its memory, before its first step."""
    path = tmp_path_factory.mktemp("trainer") / "run"
    config = runs.small_config(
        num_devices=2,
        model__name="resnet20",
        steps_per_dispatch=1,
        batch_size=64,
        dataset__train_split="train[:640]",
    )
    trainer = train.Trainer(config, workdir.Workdir(path), runs.NoStop)
    data, count = trainer.feed.take(0, 1)
    trainer.memory.expect(trainer.state, trainer.sums, data, count, trainer.seed)
    yield trainer
    trainer.close()


def resident():
    """Bytes of this process that are in memory."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_is_given_back():
    """glibc keeps what lies below the last block in use."""
    blocks = [bytearray(100_000) for _ in range(2_000)]
    last = blocks.pop()
    del blocks
    before = resident()
    memory.give_back()
    assert resident() < before - 100 * 2**20
    assert not any(last)


def test_a_plan_has_the_parts_of_the_program(trainer):
    plan = trainer.memory.plan_of(64)
    # Parameters, momenta, the means and variances of 240 maps; 640 images and labels
    # on each device.
    parameters = sum(x.size for x in jax.tree.leaves(trainer.state.params))
    assert plan.optimizer // 4 - parameters in (0, 1)  # and a count of steps
    assert plan.parameters == 4 * (parameters + 2 * 240)
    assert 640 * 28 * 28 < plan.data < 640 * 28 * 28 + 2**14
    # The inputs of 7 convolutions and as many normalisations, for 32 images a device.
    activations = 32 * 2 * (3 * 16 * 32**2 + 2 * 32 * 16**2 + 2 * 64 * 8**2) * 4
    assert 0.5 * activations < plan.scratch < 3 * activations


@pytest.mark.slow
def test_the_batch_said_to_fit_fits(trainer, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda _: (14 * 2**20, "a small device"))
    text = trainer.memory.explain()
    assert "config.batch_size = 64" in text
    assert "14.0 MiB of a small device" in text
    assert "accumulate" in text and "remat" in text
    batch = int(re.search(r"(\d+) images would fit", text)[1])
    assert 0 < batch < 64 and batch % 2 == 0
    # A few per cent beside the line: XLA lays out the buffers of each batch anew.
    assert trainer.memory.plan_of(batch).total < 1.05 * 14 * 2**20
    assert trainer.memory.plan_of(batch + 8).total > 14 * 2**20


@pytest.mark.slow
def test_no_batch_is_said_to_fit_that_did_not(trainer, monkeypatch):
    for bytes_limit, words in (
        (2**33, "could not be allocated"),
        (1, "no images would fit"),
    ):
        monkeypatch.setattr(memory, "limit", lambda _, n=bytes_limit: (n, "a device"))
        assert words in trainer.memory.explain()


def test_fitting_batch_is_on_the_line():
    totals = {32: 5_200, 16: 3_600}  # 2,000 + 100 an image
    assert memory.fitting_batch(totals, 10_000, 8) == 80
    assert memory.fitting_batch(totals, 9_999, 8) == 72
    assert memory.fitting_batch(totals, 2_100, 8) == 0
    assert memory.fitting_batch(totals, 100, 1) == 0


WORDS = [
    "RESOURCE_EXHAUSTED: Failed to allocate request for 3.00GiB",  # a GPU
    "INTERNAL: Error dispatching computation: Out of memory allocating 99 bytes.",
]


def test_what_backends_say_when_they_run_out():
    assert all(map(foreign.is_out_of_memory, WORDS))
    assert not foreign.is_out_of_memory("INTERNAL: broken")


@pytest.mark.parametrize(
    "words", [WORDS[0], pytest.param(WORDS[1], marks=pytest.mark.slow)]
)
def test_running_out_is_an_error_that_says_what_fits(words, tmp_path, monkeypatch):
    class Full:
        """The program of a device that is too small."""

        def __init__(self, run_steps):
            self.lower = run_steps.lower

        def __call__(self, *_):
            raise jax.errors.JaxRuntimeError(words)

    begin = programs.Programs.__init__

    def begin_full(self, *arguments):
        begin(self, *arguments)
        self.compiled_steps = Full(self.compiled_steps)

    monkeypatch.setattr(programs.Programs, "__init__", begin_full)
    monkeypatch.setattr(memory, "limit", lambda _: (2**19, "a small device"))
    with pytest.raises(memory.OutOfMemory, match=r"\d+ images would fit"):
        runs.train_small(tmp_path / "run", batch_size=64)


def test_running_out_in_the_evaluation_names_its_batch(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(evaluator.Classification, "run", fail)
    with pytest.raises(memory.OutOfMemory, match="config.eval.batch_size = 100"):
        runs.train_small(tmp_path / "run", num_steps=1)
    assert runs.final_state(tmp_path / "run")[1] == 1  # a restart repeats no step


def test_other_errors_of_the_runtime_stay_what_they_are(tmp_path, monkeypatch):
    def fail(self, until):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(train.Trainer, "_advance", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        runs.train_small(tmp_path / "run")


def test_the_line_before_the_first_step(monkeypatch):
    plan = memory.Plan(2**30, 2**30, 2**20, 2**31)
    monkeypatch.setattr(memory, "limit", lambda _: (2**33, "the H100"))
    assert memory.report(plan, DEVICE) == (
        "memory per device: 4.00 GiB (parameters 1.00 GiB, optimizer 1.00 GiB, data "
        "1.00 MiB, activations and scratch 2.00 GiB) of 8.00 GiB of the H100"
    )
    monkeypatch.setattr(memory, "limit", lambda _: (2**32, "available memory"))
    assert "\nwarning: this is more than there is" in memory.report(plan, DEVICE)


def test_a_cpu_device_has_its_part_of_what_is_available(monkeypatch):
    bytes_limit, _ = memory.limit(DEVICE)
    assert 2**24 < bytes_limit < 2**44
    part = 2**42  # beside which the arrays of other tests are nothing
    count = jax.local_device_count()
    monkeypatch.setattr(memory, "_available_bytes", lambda: count * part)
    assert count > 1 and memory.limit(DEVICE)[0] // part == 1


def test_what_this_process_holds_counts_as_its_own(monkeypatch):
    """A plan has the state and the data, which were no longer available."""
    gc.collect()  # arrays of other tests
    monkeypatch.setattr(memory, "_available_bytes", lambda: 8 * 2**30)
    before, _ = memory.limit(DEVICE)
    assert before >= 2**30  # of eight devices
    held = jax.device_put(np.zeros(2**20, np.float32), DEVICE)
    assert memory.limit(DEVICE)[0] == before + 2**22
    held.delete()
    assert memory.limit(DEVICE)[0] == before


@pytest.mark.parametrize(
    ("groups", "folder", "names"),
    [
        ("0::/", ".", ("max", "current")),
        ("0::/slurm/job_7/step_0", "slurm/job_7", ("max", "current")),
        ("9:cpu:/\n4:memory:/slurm/job_7", "memory/slurm", V1),
        ("4:hugetlb,memory:/not/mounted/here", "memory", V1),
    ],
)
def test_the_limit_of_any_group_above_this_process_counts(
    tmp_path, groups, folder, names
):
    """Once only that of the mount's top was read, which no SLURM job has."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 8192 kB\n")
    assert memory._available_bytes(tmp_path) == 2**23
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    assert memory._available_bytes(tmp_path) == 2**23
    group = tmp_path / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    for limit, left in (("max", 2**23), (2**30, 2**23), (5000, 2000), (1000, 0)):
        for name, value in zip(names, (limit, 3000), strict=True):
            (group / f"memory.{name}").write_text(f"{value}\n")
        assert memory._available_bytes(tmp_path) == left


@pytest.mark.slow
def test_remat_trains_and_a_wrong_stage_is_named(tmp_path):
    changes = {
        "model__name": "resnet20",
        "num_steps": 1,
        "batch_size": 4,
        "dataset__eval_split": "test[:9]",
        "eval__batch_size": 9,
    }
    line = runs.train_small(tmp_path / "run", model__remat="conv2,conv4", **changes)
    assert "after step 1" in line
    with pytest.raises(ConfigError, match="remat = 'conv5'.*conv2"):
        runs.train_small(tmp_path / "other", model__remat="conv5", **changes)
    assert not (tmp_path / "other").exists()
