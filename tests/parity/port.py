"""Loads the weights of torch modules into our networks and compares the outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parity import ours

import weights
from weights.twins import torchvision_models as torchvision

torch = pytest.importorskip("torch", reason="make parity installs the references")


def timm():
    torchvision()  # which timm imports
    return pytest.importorskip("timm", reason="make parity installs the references")


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


def arrays(module, read=lambda tensor: tensor):
    """The result of `read` for each parameter of a torch layer, as `ours` names it."""
    result = {"weight": module.weight, "bias": module.bias}
    result = {n: read(v) for n, v in result.items() if v is not None}
    if isinstance(module, torch.nn.BatchNorm2d):
        if "weight" in result:
            result["scale"] = result.pop("weight")
        result |= {"mean": module.running_mean, "var": module.running_var}
    return {n: v.detach().numpy() for n, v in result.items()}


def state(net, read=lambda tensor: tensor):
    """The results of `read` for a net's parameters and statistics, by name."""
    tensors = {n: read(p) for n, p in net.named_parameters()} | dict(
        net.named_buffers()
    )
    return {n: v.detach().numpy() for n, v in tensors.items()}


def to_torch(images):
    """[B, H, W, C] to torch's [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def check_logits(
    net, model, images, network=None, order=lambda calls: calls, round_trip=True
):
    """Asserts that `net` and our `model` agree on float32 images in evaluation mode.

    For a net that others have, `network` is our name for it: its layers are matched by
    their names, and come back to the bit if `round_trip`. For other nets, `order` puts
    the layers into our order.
    """
    net = randomize(net.float()).eval()
    if network is None:
        calls = order(torch_layers(net, to_torch(images)))
        variables = ours.variables(model, images, [arrays(module) for module in calls])
    else:
        variables = ours.by_name("torch", network, model, images, state(net))
        if round_trip:
            check_round_trip(net, network, variables)

    def theirs(images):
        with torch.no_grad():
            inputs = to_torch(images)
            return net.to(inputs.dtype)(inputs).numpy()

    ours.check_logits(model, variables, images, theirs)


def check_round_trip(net, network, variables):
    """Asserts that `net` has the weights that ours have in its names, to the bit."""
    back = weights.to_foreign(network, jax.tree.map(np.float32, variables))
    there = {n: v.numpy() for n, v in net.state_dict().items()}
    assert back.keys() == there.keys()
    for name, array in there.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape), name
        assert back[name].tobytes() == array.tobytes(), name


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
    network=None,
):
    """Asserts that training-mode loss and all gradients agree, in float64.

    Losses agree to 1e-10 relative, the gradient of each array to 1e-8 of its largest
    entry (a sum of many terms, through batch statistics). Dropout must be off.
    `our_loss` gets the sown auxiliary logits by name.
    """
    for module in net.modules():
        assert not isinstance(module, torch.nn.Dropout) or module.p == 0
    net = randomize(net.double()).train()
    images = images.astype(np.float64)
    calls = None if network else torch_layers(net, to_torch(images))

    def variables(read):
        if network:
            named = state(net, read)
            return ours.by_name("torch", network, model, images, named, train=True)
        layers = [arrays(module, read) for module in calls]
        return ours.variables(model, images, layers, train=True)

    # Running statistics may have moved; in training mode nothing depends on them.
    start = variables(lambda tensor: tensor)
    value = their_loss(net(to_torch(images)), torch.tensor(labels))
    value.backward()
    theirs = variables(lambda tensor: tensor.grad)["params"]
    with jax.enable_x64(True):
        double = model.clone(dtype=jnp.float64)

        def loss(params):
            logits, updated = double.apply(
                {"params": params, "batch_stats": start["batch_stats"]},
                images,
                train=True,
                mutable=["batch_stats", "auxiliary"],
            )
            auxiliary = {n: v for n, (v,) in updated.get("auxiliary", {}).items()}
            return our_loss(logits, auxiliary, labels)

        mine, grads = jax.jit(jax.value_and_grad(loss))(start["params"])
    np.testing.assert_allclose(mine, value.item(), rtol=1e-10)
    flat = jax.tree_util.tree_leaves_with_path(grads)
    for (path, gradient), expected in zip(flat, jax.tree.leaves(theirs), strict=True):
        bound = 1e-8 * np.abs(expected).max() + 1e-12
        difference = np.abs(np.asarray(gradient) - expected).max()
        assert difference < bound, f"{jax.tree_util.keystr(path)}: {difference}"
