"""NIN on CIFAR-10 and ImageNet (Lin, Chen, Yan, 2013, Section 4; Caffe's model zoo).

    python main.py --config=configs/nin.py --workdir=runs/nin
    python main.py --config=configs/nin.py:nin_imagenet --workdir=runs/nin_imagenet

The argument is the network: nin (the default), for CIFAR-10, or nin_imagenet. The paper
reports 8.81 % error on CIFAR-10 with translations and flips (10.41 % without:
--config.augment.crop=0 --config.augment.flip=False); the model zoo reports 59.4 % top-1
accuracy on ImageNet. Not yet run here.

The recipes come from the authors' definition files, with two differences: ImageNet's
images keep their aspect ratio, where Caffe's data sets squeeze them to 256x256; and on
CIFAR-10 the rate of the biases falls, too, where the authors name only that of the
weights. ImageNet's 450,000 steps and the epochs of the rate's drops belong together for
1,281,167 images and a batch of 64: with other numbers, change both.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "nin", "nin*")
    config = default.get_config()
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.decay_mask = "kernels"
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "step"
    if network == "nin_imagenet":
        datasets.imagenet(config)
        config.dataset.std = (1.0,)  # subtract the mean, no scaling
        config.augment.view = "rescale_crop"
        config.augment.short_side = (256, 256)
        config.batch_size = 64
        config.num_steps = 450_000
        config.optimizer.learning_rate = 0.01
        config.optimizer.weight_decay = 5e-4
        config.optimizer.rate_factors = (("bias", 2.0),)
        steps = 1_281_167 / 64  # in an epoch
        config.schedule.boundaries = (200_000 / steps, 400_000 / steps)
        config.schedule.factors = (0.1, 0.01)
    else:
        datasets.cifar10(config)
        config.dataset.whiten = "gcn_zca"
        config.dataset.mean = (0.0,)
        config.dataset.std = (1.0,)
        config.batch_size = 128
        config.num_epochs = 260.0
        config.optimizer.learning_rate = 0.1
        # The rate of 1 times the cost's coefficient, 0.1. In cuda-convnet a weight also
        # falls by wc = 1e-5 times the rate of 1, without the coefficient.
        config.optimizer.weight_decay = 1e-4
        config.optimizer.rate_factors = (
            ("cccp6/kernel", 0.1),
            ("cccp6/bias", 0.2),
            ("bias", 2.0),
        )
        config.schedule.boundaries = (200.0, 230.0)
        config.schedule.factors = (0.1, 0.01)
    return config
