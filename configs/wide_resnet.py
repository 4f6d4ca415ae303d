"""Wide ResNet on CIFAR-10 (Zagoruyko, Komodakis, 2016, Section 3).

    python main.py --config=configs/wide_resnet.py:wrn_28_10 --workdir=runs/wrn_28_10

The argument is the network, wrn_n_k for WRN-n-k, by default wrn_28_10. CIFAR-100 needs
--config.dataset.name=cifar100 --config.dataset.whiten=channels
--config.dataset.mean="(0.0,)" --config.dataset.std="(1.0,)", so that it is normalised
by its own statistics. --config.model.fields="{'dropout': 0.3}" adds dropout between a
unit's convolutions.

The paper reports these errors on CIFAR-10 and CIFAR-100, in per cent (Tables 5 and 6,
medians of five runs; wrn_40_10 is one run):

    wrn_16_4   5.02  24.03        wrn_28_10               4.00  19.25
    wrn_16_8   4.27  20.43        wrn_28_10, dropout 0.3  3.89  18.85
    wrn_40_4   4.53  21.18        wrn_40_10, dropout 0.3  3.8   18.3

Not yet run here.

No difference from the paper is known, except that its Table 4 has other inputs
(whitened, ZCA).
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(
        network, "wrn_28_10", "wrn_16_* wrn_22_* wrn_28_* wrn_40_*"
    )
    config = default.get_config()
    datasets.cifar10(config)
    config.augment.crop_mode = "reflect"
    config.batch_size = 128
    config.num_epochs = 200.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.kwargs.nesterov = True
    config.schedule.name = "step"
    config.schedule.boundaries = (60.0, 120.0, 160.0)
    config.schedule.factors = (0.2, 0.04, 0.008)
    return config
