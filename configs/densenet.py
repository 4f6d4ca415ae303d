"""DenseNet on CIFAR-10 (Huang, Liu, van der Maaten, Weinberger, 2016, Section 4.2).

    python main.py --config=configs/densenet.py:densenet_40_12 --workdir=runs/densenet

The argument is the network, by default densenet_bc_100_12. The paper reports, in column
C10+ of Table 2:

    densenet_40_12   5.24 %      densenet_bc_100_12  4.51 %
    densenet_100_12  4.10 %      densenet_bc_250_24  3.62 %
    densenet_100_24  3.74 %      densenet_bc_190_40  3.46 %

Without augmentation, the paper uses dropout: --config.model.fields="{'dropout': 0.2}"
--config.augment.crop=0 --config.augment.flip=False. CIFAR-100 needs
--config.dataset.name=cifar100 --config.dataset.whiten=channels
--config.dataset.mean="(0.0,)" --config.dataset.std="(1.0,)", so that it is normalised
by its own statistics. Not yet run here.

No difference from the paper is known.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "densenet_bc_100_12", "densenet_*")
    config = default.get_config()
    datasets.cifar10(config)
    config.batch_size = 64
    config.num_epochs = 300.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.kwargs.nesterov = True
    config.schedule.name = "step"
    config.schedule.boundaries = (150.0, 225.0)
    config.schedule.factors = (0.1, 0.01)
    return config
