"""VGG with batch normalisation on CIFAR-10.

    python main.py --config=configs/vgg_cifar.py:vgg19_cifar --workdir=runs/vgg19

The argument is the network: vgg16_cifar (the default), vgg11_cifar, vgg13_cifar,
vgg19_cifar. The paper (https://arxiv.org/abs/1409.1556) has none of these: networks and
recipe are those of https://github.com/kuangliu/pytorch-cifar, which reports 7.36 %
error for vgg16_cifar with an older schedule. Not yet run here.

Differs from that code: weights start as models/vgg.py says, not as torch's default.
"""

from configs import datasets, default


def get_config(network="vgg16_cifar"):
    network = default.network(network, network, "vgg??_cifar")  # none is a paper's
    config = default.get_config()
    datasets.cifar10(config)
    config.dataset.std = (51.59, 50.85, 51.26)  # 0.2023, 0.1994, 0.2010
    config.augment.crop_mode = "zeros"
    config.batch_size = 128
    config.num_epochs = 200.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "cosine"
    return config
