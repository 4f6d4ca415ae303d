"""ResNet on CIFAR-10 (He, Zhang, Ren, Sun, 2015, Section 4.2).

    python main.py --config=configs/resnet_cifar.py:resnet56 --workdir=runs/resnet56

The argument is the network: resnet20 (the default), 32, 44, 56, 110, 1202 or
plain20, 32, 44, 56, 110. The paper reports 8.75, 7.51, 7.17, 6.97, 6.43 and 7.93 %
error for the residual networks. resnet20 was run here whole, for seed 0: 8.18 %; the
others were not.

Differs from the paper: the warm-up of ResNet-110 and deeper lasts exactly 400 steps;
the paper's lasts until the training error is below 80 % ("about 400 iterations").

The 64,000 steps and the epochs of the rate's drops belong together for 50,000 images
and a batch of 128: with other numbers, change both.
"""

from configs import datasets, default

NETWORKS = (
    "resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202 "
    "plain20 plain32 plain44 plain56 plain110"
)


def get_config(network="paper"):
    network = default.network(network, "resnet20", NETWORKS)
    config = default.get_config()
    datasets.cifar10(config)
    datasets.mean_image(config)
    config.batch_size = 128
    config.num_steps = 64_000
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "step"
    config.schedule.boundaries = (81.92, 122.88)  # 32,000 and 48,000 steps
    config.schedule.factors = (0.1, 0.01)
    if network in ("resnet110", "resnet1202", "plain110"):
        # The rate is 0.01 for 400 steps, then 0.1; factors multiply the first rate.
        config.optimizer.learning_rate = 0.01
        config.schedule.boundaries = (1.024, 81.92, 122.88)
        config.schedule.factors = (10.0, 1.0, 0.1)
    return config
