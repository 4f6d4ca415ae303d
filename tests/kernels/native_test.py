"""Our own programs' convolutions and gradients are convolutions and gradients."""

import functools
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels import native, onednn, probes, processor

FOLDER = pathlib.Path(native.__file__).parents[1]
COMPILER = shutil.which("c++") and sys.platform == "linux"
built = pytest.mark.skipif(not COMPILER, reason="no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def library():
    if COMPILER:
        native.build()
        native.available.cache_clear()
        assert native.available()


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Keeps libraries in folders of the test; returns the one that is built here."""
    works = native._found()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return works


def gradient(window, strides=(1, 1), padding=((0, 0),) * 2, dilation=(1, 1), groups=1):
    """The gradient in a convolution's kernel, without the 1x1 shortcut to a product."""
    options = {"strides": strides, "padding": padding, "dilation": dilation}
    options |= {"window": window, "groups": groups}
    return lambda x, dy: onednn._kernel_gradient_p.bind(x, dy, **options)


def expected(x, dy, window, strides, padding, dilation, groups):
    """`lax`'s gradient, in float64."""
    with jax.enable_x64(True):
        x, dy = jnp.asarray(x, jnp.float64), jnp.asarray(dy, jnp.float64)
        shape = (*window, x.shape[3] // groups, dy.shape[3])

        def conv(w):
            return lax.conv_general_dilated(
                x,
                w,
                strides,
                padding,
                None,
                dilation,
                ("NHWC", "HWIO", "NHWC"),
                groups,
            )

        _, pull = jax.vjp(conv, jnp.zeros(shape))
        return np.asarray(pull(dy)[0])


def draw(n, size, cin, cout, window, strides, padding, dilation):
    out = [
        (s + sum(p) - (k - 1) * d - 1) // t + 1
        for s, p, k, d, t in zip(size, padding, window, dilation, strides, strict=True)
    ]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, *size, cin), np.float32)
    return x, rng.standard_normal((n, *out, cout), np.float32)


NO = ((0, 0), (0, 0))
ONE = ((1, 1), (1, 1))
CASES = [
    # images, size, cin, cout, kernel, strides, padding, dilation, groups
    (1, (1, 1), 1, 1, (1, 1), (1, 1), NO, (1, 1), 1),
    (2, (9, 11), 3, 5, (3, 3), (1, 1), ONE, (1, 1), 1),
    (3, (12, 7), 17, 16, (3, 2), (2, 1), ((0, 1), (2, 0)), (1, 1), 1),
    (2, (13, 13), 3, 24, (7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    (2, (31, 29), 3, 48, (11, 11), (4, 4), NO, (1, 1), 1),
    (2, (9, 9), 70, 33, (3, 3), (1, 1), ONE, (1, 1), 1),
    (2, (7, 7), 130, 100, (3, 3), (1, 1), ONE, (1, 1), 1),
    (2, (8, 9), 8, 12, (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1),
    (2, (9, 11), 6, 20, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    (2, (9, 11), 70, 40, (2, 3), (1, 1), ((5, 4), (4, 5)), (3, 1), 1),
    (2, (9, 11), 70, 40, (2, 3), (1, 1), ((5, 4), (4, 5)), (1, 3), 1),
    (2, (10, 10), 9, 9, (3, 3), (3, 3), NO, (1, 1), 1),
    (2, (10, 10), 5, 18, (1, 1), (4, 4), NO, (1, 1), 1),
    (2, (3, 3), 4, 4, (3, 3), (1, 1), ((9, 9), (9, 9)), (1, 1), 1),
    # Groups: many small ones, one channel each, sizes that fill no vector, wide ones.
    (2, (9, 8), 64, 64, (3, 3), (1, 1), ONE, (1, 1), 16),
    (2, (9, 8), 32, 32, (3, 3), (2, 2), ONE, (1, 1), 32),
    (2, (9, 8), 30, 42, (3, 3), (1, 1), ONE, (1, 1), 6),
    (2, (9, 8), 12, 20, (3, 3), (1, 1), ONE, (2, 1), 4),
    (2, (9, 8), 160, 140, (3, 3), (1, 1), ONE, (1, 1), 2),
    # More pixels than a panel holds: rows of an image, several images, each uneven.
    (2, (131, 67), 3, 4, (3, 3), (1, 1), ONE, (1, 1), 1),
    (3, (90, 61), 4, 40, (5, 3), (2, 2), ((2, 2), (0, 0)), (1, 1), 1),
    (33, (11, 13), 5, 7, (3, 3), (1, 1), ONE, (1, 1), 1),
    (2, (5, 3000), 2, 3, (3, 3), (1, 1), ONE, (1, 1), 1),
]


@built
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_laxs_in_float64(case):
    *sizes, window, strides, padding, dilation, groups = case
    options = (window, strides, padding, dilation)
    x, dy = draw(*sizes, *options)
    result = jax.jit(gradient(*options, groups))(x, dy)
    wanted = expected(x, dy, *options, groups)
    assert result.shape == wanted.shape
    # n roundings, up or down, of partial sums no greater than the greatest sum.
    atol = 2.0**-24 * np.sqrt(dy[..., 0].size) * np.abs(wanted).max() + 1e-6
    np.testing.assert_allclose(result, wanted, rtol=0, atol=atol)


@built
def test_vmap_and_derivatives_of_it():
    options = ((3, 3), (2, 1), ((1, 1), (0, 2)), (1, 1))
    f = gradient(*options, 2)
    x, dy = draw(2, (7, 9), 6, 10, *options)
    many = np.stack([x, 2 * x]), np.stack([dy, dy - 1])
    for axes, given in {(0, None): (many[0], dy), (0, 0): many}.items():
        results = jax.jit(jax.vmap(f, axes))(*given)
        for i in range(2):
            one = jax.jit(f)(given[0][i], dy if axes[1] is None else given[1][i])
            np.testing.assert_array_equal(results[i], one)
    results = jax.jit(jax.vmap(f, (None, 0)))(x, many[1])
    np.testing.assert_array_equal(results[1], jax.jit(f)(x, many[1][1]))

    # It is linear in each: <f(x, dy), w> has the gradients f'(w) with <f'(w), x>.
    w = jnp.cos(jnp.arange(3 * 3 * 3 * 10.0)).reshape(3, 3, 3, 10)
    value, slopes = jax.jit(
        jax.value_and_grad(lambda x, dy: jnp.sum(f(x, dy) * w), (0, 1))
    )(x, dy)
    for slope, given in zip(slopes, (x, dy), strict=True):
        np.testing.assert_allclose(jnp.sum(slope * given), value, rtol=1e-4)
    y = onednn.conv(x, w, *options[1:], 2)
    np.testing.assert_allclose(slopes[1], y, rtol=0, atol=1e-5)


WINOGRAD = [
    # images, height and width, inputs, outputs, padding
    (1, (2, 2), 16, 16, ONE),
    (3, (7, 9), 16, 48, ONE),
    (2, (5, 6), 32, 16, ((0, 0), (2, 1))),
    (2, (13, 4), 64, 32, ((0, 1), (1, 0))),
    (4, (3, 3), 80, 144, ((4, 2), (0, 3))),
    # More tiles than a block holds, blocks and copies that are not even.
    (5, (35, 33), 16, 16, ONE),
    (4, (30, 47), 144, 80, NO),  # 6 parts of the channels in 2 copies each
]


@built
@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_winograd_is_lax_in_float64(case, monkeypatch):
    n, size, cin, cout, padding = case
    options = ((3, 3), (1, 1), padding, (1, 1))
    x, dy = draw(n, size, cin, cout, *options)
    kernel = np.random.default_rng(1).standard_normal((3, 3, cin, cout), np.float32)
    with jax.enable_x64(True):
        wanted = lax.conv_general_dilated(
            jnp.asarray(x, jnp.float64),
            jnp.asarray(kernel, jnp.float64),
            (1, 1),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    for layout in ("HWIO", "HWOI"):
        given = kernel if layout == "HWIO" else kernel.swapaxes(2, 3).copy()
        conv = functools.partial(native.winograd, padding=padding, layout=layout)
        result = jax.jit(conv)(x, given)
        # Partial sums of n terms of size 1 are of size sqrt(n), and so are n roundings;
        # and the transforms' own sums, of up to 16 terms.
        atol = 2.0**-23 * 9 * cin + 1e-5
        np.testing.assert_allclose(result, wanted, rtol=0, atol=atol)

    monkeypatch.setattr(native, "winograd_applies", lambda *_: True)
    f = gradient(*options)
    assert calls(f, x, dy, native._WINOGRAD_KERNEL_GRADIENT) == 1
    wanted = expected(x, dy, *options, 1)
    # As above, but transformed elements, sums of up to 16 terms, are of size 4.
    atol = 2.0**-22 * dy[..., 0].size + 1e-5
    np.testing.assert_allclose(jax.jit(f)(x, dy), wanted, rtol=0, atol=atol)


@built
def test_where_winograd_is_called():
    def conv(x, w):
        return jnp.sum(jnp.sin(onednn.conv(x, w, strides, ONE, (1, 1), groups)))

    def found(size, cin, cout, window=3, n=8):
        x = jnp.ones((n, size, size, cin))
        w = jnp.ones((window, window, cin // groups, cout))
        step = jax.grad(conv, (0, 1))
        names = native._WINOGRAD, native._WINOGRAD_KERNEL_GRADIENT
        return tuple(calls(step, x, w, name) for name in names)

    strides, groups = (1, 1), 1
    # The name of the one is the beginning of the other's.
    assert found(8, 32, 16) == (3, 1)
    assert found(8, 32, 24) == found(8, 12, 16) == (0, 0)
    assert found(8, 32, 16, n=3) == found(1, 32, 16, n=256) == (0, 0)
    assert found(8, 32, 16, window=5) == (0, 0)
    groups = 2
    assert found(8, 32, 32) == (0, 0)
    strides, groups = (2, 2), 1
    assert found(16, 32, 16)[1] == 0


@built
def test_winograd_of_an_image_does_not_depend_on_the_others():
    x, _ = draw(5, (9, 9), 16, 32, (3, 3), (1, 1), ONE, (1, 1))
    kernel = np.random.default_rng(1).standard_normal((3, 3, 16, 32), np.float32)
    conv = jax.jit(functools.partial(native.winograd, padding=ONE, layout="HWIO"))
    np.testing.assert_array_equal(conv(x, kernel)[2:4], conv(x[2:4], kernel))


def calls(f, x, y, name=native._KERNEL_GRADIENT):
    return jax.jit(f).lower(x, y).compile().as_text().count(name)


@built
def test_where_it_is_called(monkeypatch):
    options = ((3, 3), (1, 1), ONE, (1, 1))
    x, dy = draw(8, (6, 5), 4, 4, *options)
    f = gradient(*options)
    assert calls(f, x, dy) == 1
    assert calls(f, x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)) == 0
    assert calls(f, x[:0], dy[:0]) == 0
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    assert calls(f, *jax.device_put((x, dy), sharding)) == 0
    with_library = jax.jit(f)(x, dy)
    monkeypatch.setattr(native, "places", lambda: [FOLDER / "nothing.so"])
    native.available.cache_clear()
    assert calls(lambda x, dy: f(x, dy), x, dy) == 0
    by_xla = jax.jit(lambda x, dy: f(x, dy))(x, dy)
    native.available.cache_clear()
    np.testing.assert_allclose(with_library, by_xla, rtol=0, atol=1e-4)


SCRIPT = """if 1:
    import hashlib, os, sys
    if sys.argv[2] == "1":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax, jax.numpy as jnp, numpy as np
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from kernels import native, onednn

    def gradient(x, dy):
        return onednn._kernel_gradient_p.bind(
            x, dy, window=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)),
            dilation=(1, 1), groups=1)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 40, 40, 24), np.float32)
    dw = jax.jit(gradient)(x, x)
    x = rng.standard_normal((4, 40, 40, 32), np.float32)
    y = jax.jit(native.winograd, static_argnames=("padding", "layout"))(
        x, gradient(x, x), padding=((1, 1), (1, 1)), layout="HWIO")
    print(hashlib.sha256(np.asarray(dw)).hexdigest())
    print(hashlib.sha256(np.asarray(y)).hexdigest())
"""


@built
def test_programs_are_cached_and_threads_change_no_bit(tmp_path):
    environment = os.environ | {"XLA_FLAGS": ""}

    def run(threads):
        command = [sys.executable, "-c", SCRIPT, tmp_path, str(threads)]
        done = subprocess.run(
            command, cwd=FOLDER, env=environment, check=True, stdout=subprocess.PIPE
        )
        return done.stdout, {path.name for path in tmp_path.iterdir()}

    first, stored = run(2)
    assert any("gradient" in name for name in stored)
    again, after = run(2)
    assert again == first and after == stored
    assert run(1)[0] == first


def test_without_a_compiler(monkeypatch, tmp_path, capsys, elsewhere):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(
        probes, "probe", lambda: {"convolution": "", "matmul": "it bit"}
    )
    native.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("convolutions stay oneDNN's and XLA's")
    assert lines[1:] == [
        "oneDNN's convolution: works",
        "oneDNN's matmul: left to XLA: it bit",
    ]
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_that_is_not_there_is_named(monkeypatch, elsewhere):
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(native.BuildError, match=r"CXX=ccache g\+\+ names no program"):
        native.build()


@built
def test_building(monkeypatch, tmp_path, elsewhere):
    # Unoptimized code is built in a fifth of the time; `library` builds the other.
    monkeypatch.setattr(native, "_OPTIONS", (*native._OPTIONS, "-O0"))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(native.BuildError, match="false -O3"):
        native.build()
    assert not list(tmp_path.rglob("*.so"))
    monkeypatch.delenv("CXX")
    path = native.build()
    assert [path] == list(tmp_path.rglob("*.so"))
    stamp = path.stat().st_mtime_ns
    assert native.build() == path and path.stat().st_mtime_ns == stamp


@built
def test_a_library_that_cannot_be_loaded_is_built_again_or_said(
    monkeypatch, tmp_path, elsewhere
):
    """It was once called "not built", and the command to build it changed nothing."""
    compiler, warned = tmp_path / "c++", []
    monkeypatch.setattr(native.logging, "warning", lambda *words: warned.append(words))
    monkeypatch.setenv("CXX", str(compiler))
    native.path().parent.mkdir(parents=True)
    native.path().write_bytes(b"for another machine")
    native.available.cache_clear()
    assert not native.available()
    native.available.cache_clear()
    assert "cannot be loaded" in warned[0][1] and native.path().name in warned[0][1]
    compiler.write_text('#!/bin/sh\nfor file; do :; done\ncp "$BUILT" "$file"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("BUILT", str(compiler))
    with pytest.raises(native.BuildError, match="c[+][+] built cannot be loaded: "):
        native.build()
    monkeypatch.setenv("BUILT", str(elsewhere))
    assert native.build().read_bytes() == elsewhere.read_bytes()


@built
def test_an_environment_that_cannot_be_written_leaves_it_to_the_cache(
    monkeypatch, tmp_path, elsewhere
):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nfor file; do :; done\ncp "$BUILT" "$file"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("BUILT", str(elsewhere))
    (tmp_path / "prefix").write_text("no folder")
    place = tmp_path / "cache" / "convnets" / elsewhere.name
    assert native.build() == native._found() == place


OUT_OF_MEMORY = """
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "native.h"

struct Pool {
  std::vector<std::thread> threads;
  int64_t num_threads() const { return 3; }
  template <typename F>
  void Schedule(F f) { threads.emplace_back(f); }
  ~Pool() { for (auto& thread : threads) thread.join(); }
};

int main() {
  for (const int64_t floats : {int64_t{0}, int64_t{1} << 58}) {
    std::atomic<int> ended{0};
    Pool pool;
    try {
      convnets::InParallel(pool, 50, floats, [&](int64_t i, float*) {
        if (i % 7 == 3) throw std::bad_alloc();
        ++ended;
      });
      std::puts("nothing thrown");
    } catch (const std::bad_alloc&) {
      std::printf("%d ended\\n", ended.load());
    }
  }
}
"""


@built
def test_a_task_without_memory_ends_the_call_and_not_the_process(tmp_path):
    """XLA's threads catch nothing, so the process would end."""
    program = tmp_path / "program"
    source = program.with_suffix(".cc")
    source.write_text(OUT_OF_MEMORY)
    include = [f"-I{processor.FOLDER}", "-isystem", jax.ffi.include_dir()]
    options = ["-std=c++17", "-pthread", *include]
    subprocess.run(["c++", *options, source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Of 50 tasks seven get no memory, and then none of them its scratch.
    assert done.stdout.splitlines() == ["43 ended", "0 ended"]


def test_sanitizers_are_another_library(monkeypatch):
    monkeypatch.delenv("CONVNETS_SANITIZE", raising=False)
    before = native.path()
    monkeypatch.setenv("CONVNETS_SANITIZE", "address")
    assert native.path() != before


@pytest.mark.parametrize("name", [*native.SOURCES, native.HEADER])
def test_another_source_is_another_library(name, monkeypatch, tmp_path):
    before = native.path()
    for source in (*native.SOURCES, native.HEADER):
        shutil.copy(processor.FOLDER / source, tmp_path)
    monkeypatch.setattr(processor, "FOLDER", tmp_path)
    assert native.path() == before
    with (tmp_path / name).open("a") as file:
        file.write("\n")
    assert native.path() != before
