"""Configs that several claims start from."""

from configs import cifar10, datasets, default, lenet5

FOUR_LAYERS = "claims.networks:FourLayers"
SIGMOIDS = "claims.networks:Sigmoids"
NARROW_VGG = "claims.networks:NarrowVGG"
NARROW_NIN = "claims.networks:NarrowNIN"


def four_layers(epochs):
    """FourLayers on CIFAR-10: SGD with momentum at a constant rate, no regularisation.

    Training errors are reported over 10,000 images at a time, as they were in the code
    of AlexNet's author. The network is tested at the end alone, as verdicts are about
    its last step.
    """
    config = default.get_config()
    datasets.cifar10(config)
    datasets.channels(config)
    config.augment.crop = 0
    config.augment.flip = False
    config.batch_size = 128
    config.num_epochs = float(epochs)
    config.model.name = FOUR_LAYERS
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 0.0
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "constant"
    config.eval.every_epochs = 0.0
    return _for_claims(config, every=78)


def annealed(config):
    """Lets the rate fall linearly to zero, so that the last step is the best."""
    config.schedule.name = "polynomial"
    config.schedule.warmup_epochs = 0.5
    return config


def sigmoids(steps):
    """Sigmoids on MNIST: 60 images a step, SGD at a constant rate (BN, Section 4.1)."""
    config = lenet5.get_config("modern")
    config.dataset.image_size = 28
    config.augment.crop = 0
    config.augment.flip = False
    config.batch_size = 60
    config.num_epochs = steps / 1000  # of 60,000 images
    config.model.name = SIGMOIDS
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "constant"
    config.eval.every_epochs = 0.5
    return _for_claims(config, every=500)


def residual(epochs):
    """ResNet-20 on CIFAR-10 at 16x16, where a step costs a quarter (ResNet, 4.2).

    The augmentation is the paper's at half the size. An epoch has 390 steps, and the
    training error is reported for each. The rate falls linearly to zero.
    """
    config = at_16(four_layers(epochs))
    config.augment.crop = 2
    config.augment.flip = True
    config.num_steps = 390 * epochs
    config.model.name = "resnet20"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.log.every_steps = 390
    return annealed(config)


def at_16(config):
    """Shrinks the images to 16x16."""
    config.dataset.image_size = 16
    config.dataset.fit = "resize"
    return config


def lenet_1998(epochs):
    """LeNet-5 of 1998 on MNIST by mini-batches (configs/lenet5.py)."""
    config = lenet5.get_config()
    config.num_epochs = float(epochs)
    return _for_claims(config, every=937)


def resnet20(epochs):
    """ResNet-20 on CIFAR-10 as in configs/cifar10.py, for fewer epochs."""
    config = cifar10.get_config("resnet20")
    config.num_epochs = float(epochs)
    config.eval.every_epochs = 0.0  # as in four_layers
    return _for_claims(config, every=78)


def _for_claims(config, every):
    config.log.every_steps = every
    config.log.tensorboard = False
    config.checkpoint.every_epochs = 5.0
    config.checkpoint.keep_last = 1
    config.checkpoint.keep_best = 0
    return config
