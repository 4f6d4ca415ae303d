"""BN-Inception on ImageNet (Ioffe, Szegedy, 2015, Section 4.2).

    python main.py --config=configs/bn_inception.py --workdir=runs/bn_inception

This is BN-x30, the best of the paper's networks; BN-x5 is
--config.optimizer.learning_rate=0.0075. The argument bn_inception_128 trains the
network of that name.

The paper reports, with one crop, 25.2 % top-1 and 7.82 % top-5 error for BN-x30 after
6 million steps of 32, and 27.0 % top-1 for BN-x5. Not yet run here.

Differs from the paper: training is not distributed. The paper distorts colours less
than GoogLeNet but gives no number; half as far is a guess. It divides the weight decay
of its GoogLeNet by 5 and makes the learning rate fall 6 times faster, but gives neither
number: here they start from those of configs/googlenet.py, and momentum is 0.9.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "bn_inception", "bn_inception*")
    config = default.get_config()
    datasets.imagenet(config)
    datasets.googlenet(config, strength=0.25)
    config.batch_size = 32
    config.num_epochs = 150.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.045
    config.optimizer.weight_decay = 4e-5
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "exponential"
    config.schedule.decay_rate = 0.96
    config.schedule.decay_epochs = 1.333  # 8 / 6
    config.schedule.staircase = True
    return config
