"""Five networks on Fashion-MNIST, with trainings short enough for two cores.

    python main.py --config=configs/fashion_mnist.py:resnet20 --workdir=runs/fashion

The argument is the network: resnet20 (the default), nin, vgg11_cifar, wrn_16_4 or
lenet5_modern. The recipes are ours, a few epochs each: the learning rate rises for half
an epoch and falls linearly to zero, which takes a short training further than the
papers' steps; flips are the only augmentation. NIN and LeNet-5 learn with AdamW; with
the SGD of the others NIN stays at chance for epochs. The networks are those of their
papers; VGG and LeNet-5 see an image in a frame of zeros. Mean and deviation are the
training set's, on a scale of 0 to 255. README.md has the results.
"""

from configs import datasets, default

# Network: epochs, optimizer, learning rate, weight decay, pixels.
ROWS = {
    "resnet20": (5.0, "sgd", 0.1, 5e-4, 28),
    "nin": (6.0, "adamw", 1e-3, 1e-2, 28),
    "vgg11_cifar": (5.0, "sgd", 0.05, 5e-4, 32),
    "wrn_16_4": (2.0, "sgd", 0.1, 5e-4, 28),
    "lenet5_modern": (12.0, "adamw", 2e-3, 1e-2, 32),
}


def get_config(network="resnet20"):
    if network not in ROWS:
        raise ValueError(
            f"configs/fashion_mnist.py has no {network!r}; it has {list(ROWS)}"
        )
    epochs, optimizer, rate, decay, pixels = ROWS[network]
    config = default.get_config()
    config.batch_size = 128
    config.num_epochs = epochs
    config.dataset.name = "fashion_mnist"
    config.dataset.image_size = pixels
    datasets.statistics(config, "fashion_mnist")
    config.augment.flip = True
    config.model.name = network
    config.optimizer.name = optimizer
    config.optimizer.learning_rate = rate
    config.optimizer.weight_decay = decay
    if optimizer == "sgd":
        config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = 0.5
    return config
