"""Finds the nearest images by their features, or by short binary codes of these.

The AlexNet paper (Krizhevsky, Sutskever, Hinton, 2012, Section 6.1) finds similar
images by the Euclidean distance of the last hidden layer's activations, and proposes to
compress them to binary codes with an auto-encoder. Its code units are rounded to 0 or 1
in the forward pass, and the gradient passes as if they were not (Krizhevsky and Hinton,
"Using very deep autoencoders for content-based image retrieval", 2011). That paper's
network is deep; this one has one layer on each side of the code.
"""

import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


def nearest(database, queries, k):
    """Indices [Q, k] of the nearest rows by Euclidean distance, nearest first.

    database is float32 [N, D], queries [Q, D]. Queries run one after another, as they
    would arrive.
    """
    norms = np.square(database).sum(1)
    # This is |x - q|^2 without |q|^2, which is the same for all x.
    return _search(lambda query: norms - 2 * (database @ query), queries, k)


def nearest_codes(database, queries, k):
    """The same by Hamming distance; codes are uint64 [N, words], as `pack` gives."""
    return _search(
        lambda query: np.bitwise_count(database ^ query).sum(1, dtype=np.uint16),
        queries,
        k,
    )


def _search(distances, queries, k):
    found = []
    for query in queries:
        distance = distances(query)
        # Among equal distances the lower index comes first, even at the edge of the k.
        limit = np.partition(distance, k - 1)[k - 1]
        near = np.flatnonzero(distance <= limit)
        found.append(near[np.argsort(distance[near], kind="stable")][:k])
    return np.stack(found)


class AutoEncoder(nn.Module):
    """Reconstructs features [B, D] from binary codes of them."""

    bits: int
    size: int  # D

    def setup(self):
        self.encoder, self.decoder = nn.Dense(self.bits), nn.Dense(self.size)

    def __call__(self, x):
        code = nn.sigmoid(self.encoder(x))
        code += jax.lax.stop_gradient(jnp.round(code) - code)
        return self.decoder(code)

    def codes(self, x):
        """The codes of features: booleans [B, bits]."""
        return self.encoder(x) > 0


def train_codes(features, *, bits=64, seed=0, steps=3000, batch_size=256):
    """Trains an auto-encoder on features, float32 [N, D].

    Returns:
      The function from features [n, D] to packed codes, and the share of the features'
      variance that the reconstruction from codes misses.
    """
    model = AutoEncoder(bits, features.shape[1])
    # One scale for all features keeps the proportions of their distances.
    mean = features.mean(0)
    scale = max(float(np.sqrt(np.square(features - mean).mean())), 1e-12)
    normalised = jnp.asarray((features - mean) / scale)
    key = jax.random.key(seed)
    variables = model.init(key, normalised[:1])
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss(variables, x):
        return jnp.square(model.apply(variables, x) - x).mean()

    def step(state, number):
        variables, opt_state = state
        key_of_step = jax.random.fold_in(key, number)
        index = jax.random.randint(key_of_step, (batch_size,), 0, len(normalised))
        gradient = jax.grad(loss)(variables, normalised[index])
        updates, opt_state = tx.update(gradient, opt_state)
        return (optax.apply_updates(variables, updates), opt_state), None

    train = jax.jit(functools.partial(jax.lax.scan, step))
    (variables, _), _ = train((variables, tx.init(variables)), jnp.arange(steps))
    encode = jax.jit(functools.partial(model.apply, variables, method="codes"))
    missed = float(jax.jit(loss)(variables, normalised))
    return lambda x: pack(np.asarray(encode((x - mean) / scale))), missed


def pack(codes):
    """Packs booleans [N, bits] into uint64 [N, words], padded with zeros."""
    padded = np.pad(codes, [(0, 0), (0, -codes.shape[1] % 64)])
    return np.packbits(padded, axis=1).view(np.uint64)


def compare(search, other, labels, query_labels, k, rounds=3):
    """Measures what is lost, and how much time is gained, if `other` replaces `search`.

    Args:
      search, other: functions without arguments that return indices [Q, k] into the
        database.
      labels, query_labels: classes of the database and of the queries.
      rounds: how often to time both in turn; the best, least disturbed round counts.

    Returns:
      A dict. precision: the share of neighbours of their query's class, for each
      search; precision_of_classes: the same by the query's class, {class: (search,
      other)}; overlap: the share of the k that both find; seconds: the time of one
      query, for each; speedup: their ratio.
    """
    functions = (search, other)
    results, seconds = [function() for function in functions], [np.inf, np.inf]
    for _ in range(rounds):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            took = (time.perf_counter() - start) / len(query_labels)
            seconds[i] = min(seconds[i], took)
    hits = [labels[found] == query_labels[:, None] for found in results]
    shared = [len(np.intersect1d(a, b)) / k for a, b in zip(*results, strict=True)]
    return {
        "precision": [float(hit.mean()) for hit in hits],
        "precision_of_classes": {
            int(c): [float(hit[query_labels == c].mean()) for hit in hits]
            for c in np.unique(query_labels)
        },
        "overlap": float(np.mean(shared)),
        "seconds": seconds,
        "speedup": seconds[0] / seconds[1],
    }


def describe(result):
    """Puts the measurements of both searches into words."""
    precision, seconds = result["precision"], result["seconds"]
    return (
        f"{result['k']} nearest of {result['database']:,} training images, for "
        f"{result['queries']:,} test images:\n"
        f"  by {result['features']} features: {100 * precision[0]:.1f} % of the "
        f"image's class, {1e6 * seconds[0]:,.0f} us a search\n"
        f"  by codes of {result['bits']} bits: {100 * precision[1]:.1f} %, "
        f"{1e6 * seconds[1]:,.0f} us, {result['speedup']:.1f} times as fast; "
        f"{100 * result['overlap']:.1f} % are the same images\n"
        f"  the codes miss {100 * result['variance_missed']:.1f} % of the features' "
        "variance"
    )
