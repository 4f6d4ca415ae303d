"""What recipes on one data set have in common; they change it where a paper does."""


def imagenet(config, image_size=224):
    """ILSVRC-2012: 1,281,167 training and 50,000 validation images, 1000 classes.

    Channel means and deviations of the training set, on a scale of 0 to 255.
    """
    config.dataset.name = "imagenet2012"
    config.dataset.image_size = image_size
    config.dataset.fit = "resize"
    config.dataset.mean = (123.675, 116.28, 103.53)
    config.dataset.std = (58.395, 57.12, 57.375)
    config.augment.flip = True
    config.log.every_steps = 100


def cifar10(config):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32, ten classes.

    Translation by up to 4 pixels and flips: what the papers mark with a +. Means and
    deviations of the training set (fb.resnet.torch), on a scale of 0 to 255.
    """
    config.dataset.name = "cifar10"
    config.dataset.image_size = 32
    config.dataset.mean = (125.3, 123.0, 113.9)
    config.dataset.std = (63.0, 62.1, 66.7)
    config.augment.crop = 4
    config.augment.flip = True
    config.log.every_steps = 100
