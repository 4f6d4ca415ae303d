"""ResNeXt on CIFAR-10 (Xie, Girshick, Dollar, Tu, He, 2016, Section 5.3).

    python main.py --config=configs/resnext_cifar.py --workdir=runs/resnext29

The argument is the network: resnext29_8x64d (the default), resnext29_16x64d or
resnext29_1x64d. CIFAR-100 needs --config.dataset.name=cifar100
--config.dataset.whiten=channels --config.dataset.mean="(0.0,)"
--config.dataset.std="(1.0,)", so that it is normalised by its own statistics. The paper
reports 3.65 and 3.58 % error on CIFAR-10 for the first two, 17.77 and 17.31 % on
CIFAR-100 (means of ten runs). Not yet run here.

Differs from the paper: the networks' blocks (models/resnext.py); the batch of 128 comes
from the authors' code, with which they found these blocks to be better.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "resnext29_8x64d", "resnext29_*")
    config = default.get_config()
    datasets.cifar10(config)
    config.batch_size = 128
    config.num_epochs = 300.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.kwargs.nesterov = True
    config.schedule.name = "step"
    config.schedule.boundaries = (150.0, 225.0)
    config.schedule.factors = (0.1, 0.01)
    return config
