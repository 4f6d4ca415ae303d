"""Weights of torch modules in our networks, and what comes out of both.

Layers are paired in the order in which a forward pass calls them. Nothing is looked up
by name, so a layer that is missing, added, misplaced or of another size ends the test.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import layers

torch = pytest.importorskip("torch", reason="make parity installs the references")


@functools.cache
def torchvision():
    """torchvision.models, whose compiled operators may not load beside torch's.

    Their names are registered so that the import finds them; no network calls one.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in (
        "nms qnms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d "
        "_roi_align_backward _roi_pool_backward _ps_roi_align_backward "
        "_ps_roi_pool_backward _deform_conv2d_backward"
    ).split():
        library.define(f"{name}() -> ()")
    import torchvision

    torchvision._keep = library
    return torchvision.models


def randomize(net, seed=0):
    """Gives a torch net weights that keep activations alive, and BN statistics."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low))
            tensor.add_(low)

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            fan_in = module.weight[0].numel()
            bound = (6 / fan_in) ** 0.5
            uniform(module.weight, -bound, bound)
            if module.bias is not None:
                uniform(module.bias, -0.1, 0.1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            if module.affine:
                uniform(module.weight, 0.5, 1.0)
                uniform(module.bias, -0.1, 0.1)
            uniform(module.running_mean, -0.1, 0.1)
            uniform(module.running_var, 0.5, 1.5)
    return net


def torch_layers(net, images):
    """The layers with weights that `net` calls on `images` [B, C, H, W], in order."""
    calls, hooks = [], []
    kinds = torch.nn.Conv2d | torch.nn.Linear | torch.nn.BatchNorm2d
    for module in net.modules():
        if isinstance(module, kinds):
            hook = module.register_forward_hook(lambda m, *_: calls.append(m))
            hooks.append(hook)
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return calls


def our_layers(model, images, train=False):
    """The paths of the layers with weights that `model` calls, in order, with kinds."""
    calls = []
    kinds = nn.Conv | nn.Dense | nn.BatchNorm | layers.FullyConnected

    def record(call, args, kwargs, context):
        if isinstance(context.module, kinds) and context.method_name == "__call__":
            calls.append((context.module.path, type(context.module)))
        return call(*args, **kwargs)

    def init(key):
        with nn.intercept_methods(record):
            keys = {"params": key, "dropout": key}
            return model.init(keys, images, train=train)

    return calls, jax.eval_shape(init, jax.random.key(0))


class Pairing:
    """The layers of a torch module `net` beside those of our `model`.

    Args:
      images: [B, H, W, C], float32, to call both with; in training mode if `train`,
        which also calls auxiliary heads.
      order: brings the list of torch layers into the order of ours, where it differs.
    """

    def __init__(self, net, model, images, train=False, order=lambda calls: calls):
        net.train(train)
        dtype = next(net.parameters()).dtype
        theirs = order(torch_layers(net, to_torch(images).to(dtype)))
        ours, self.shapes = our_layers(model, images, train)
        listing = "\n".join(
            f"{i}: {'.'.join(path)}" for i, (path, _) in enumerate(ours)
        )
        assert len(theirs) == len(ours), (
            f"torch calls {len(theirs)} layers, we call:\n{listing}"
        )
        self.layers = list(zip(theirs, ours, strict=True))

    def variables(self, read=lambda tensor: tensor):
        """Our collections, float64, of what `read` takes from each torch parameter."""
        result = {"params": {}, "batch_stats": {}}
        for i, (module, (path, kind)) in enumerate(self.layers):
            wanted = _at(self.shapes["params"], path)
            for collection, values in _convert(module, kind, wanted, read).items():
                *parents, last = path
                _at(result[collection], parents, create=True)[last] = values
            theirs = {n: v.shape for n, v in _at(result["params"], path).items()}
            ours = {n: v.shape for n, v in wanted.items()}
            assert theirs == ours, (
                f"layer {i}, {'.'.join(path)}: torch's {module} gives {theirs}, "
                f"ours is {ours}"
            )
        return result


def _at(tree, path, create=False):
    for name in path:
        tree = tree.setdefault(name, {}) if create else tree.get(name, {})
    return tree


def _convert(module, kind, shapes, read):
    """The arrays of one torch layer in our form, by collection."""

    def array(tensor):
        return read(tensor).detach().numpy().astype(np.float64)

    if isinstance(module, torch.nn.BatchNorm2d):
        params = {}
        if module.affine:
            params = {"scale": array(module.weight), "bias": array(module.bias)}
        stats = {"mean": module.running_mean, "var": module.running_var}
        stats = {n: v.detach().numpy().astype(np.float64) for n, v in stats.items()}
        return {"params": params, "batch_stats": stats}
    weight = array(module.weight)
    if issubclass(kind, nn.Dense):
        kernel = weight.reshape(len(weight), -1).T
    elif weight.ndim == 2:  # a linear layer on a map, whose pixels torch lays flat
        height, width, channels, _ = shapes["kernel"].shape
        kernel = weight.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    else:
        kernel = weight.transpose(2, 3, 1, 0)
    params = {"kernel": kernel}
    if module.bias is not None:
        params["bias"] = array(module.bias)
    return {"params": params}


def to_torch(images):
    """[B, H, W, C] to torch's [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def random_images(size, channels=3, batch=2, seed=0):
    """Images [B, H, W, C], float32; `size` is a number or (height, width)."""
    size = (size, size) if isinstance(size, int) else size
    draw = np.random.default_rng(seed).normal(size=(batch, *size, channels))
    return draw.astype(np.float32)


def check_logits(net, model, images, **options):
    """Asserts that `net` and our `model` agree on float32 images in evaluation mode.

    To 1e-4 of the largest logit in float32, and to 1e-10 in float64, which shows that
    the former is rounding and nothing else. Returns the two differences.
    """
    pairing = Pairing(randomize(net.float()), model, images, **options)
    variables = pairing.variables()
    net.eval()
    differences = []
    for name, bound in (("float32", 1e-4), ("float64", 1e-10)):
        net = net.to(getattr(torch, name))
        with torch.no_grad():
            theirs = net(to_torch(images.astype(name))).numpy()
        with jax.enable_x64(name == "float64"):
            cast = jax.tree.map(lambda v, name=name: v.astype(name), variables)
            ours = model.clone(dtype=jnp.dtype(name))
            logits = jax.jit(functools.partial(ours.apply, train=False))(
                cast, images.astype(name)
            )
            assert logits.dtype == name
        scale = np.abs(theirs).max()
        # Logits that depend on the image, and on more than the last bias.
        assert np.abs(theirs[0] - theirs[1]).max() > 1e-3 * scale
        differences.append(float(np.abs(np.asarray(logits) - theirs).max() / scale))
        assert differences[-1] < bound, f"{name}: {differences[-1]}"
    return differences


def cross_entropy(logits, labels):
    """Mean softmax cross-entropy of logits [B, K]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def check_gradients(
    net,
    model,
    images,
    labels,
    *,
    their_loss=lambda out, labels: torch.nn.functional.cross_entropy(out, labels),
    our_loss=lambda logits, auxiliary, labels: cross_entropy(logits, labels),
    **options,
):
    """Asserts that training-mode loss and all gradients agree, in float64.

    Losses to 1e-10 relative, the gradient of each array to 1e-8 of its largest entry (a
    sum of many terms, through batch statistics). Dropout must be off. `our_loss` gets
    the sown auxiliary logits by name.
    """
    for module in net.modules():
        assert not isinstance(module, torch.nn.Dropout) or module.p == 0
    pairing = Pairing(randomize(net.float()), model, images, train=True, **options)
    variables = pairing.variables()
    net = net.double()
    # The pass that found the order of the layers has moved the running statistics;
    # in training mode nothing depends on them.
    value = their_loss(net(to_torch(images.astype(np.float64))), torch.tensor(labels))
    value.backward()
    theirs = pairing.variables(lambda tensor: tensor.grad)["params"]
    with jax.enable_x64(True):
        ours = model.clone(dtype=jnp.float64)

        def loss(params):
            logits, updated = ours.apply(
                {"params": params, "batch_stats": variables["batch_stats"]},
                images.astype(np.float64),
                train=True,
                mutable=["batch_stats", "auxiliary"],
            )
            auxiliary = {n: v for n, (v,) in updated.get("auxiliary", {}).items()}
            return our_loss(logits, auxiliary, labels)

        mine, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(mine, value.item(), rtol=1e-10)
    flat = jax.tree_util.tree_leaves_with_path(grads)
    for (path, gradient), expected in zip(flat, jax.tree.leaves(theirs), strict=True):
        bound = 1e-8 * np.abs(expected).max() + 1e-12
        difference = np.abs(np.asarray(gradient) - expected).max()
        assert difference < bound, f"{jax.tree_util.keystr(path)}: {difference}"
