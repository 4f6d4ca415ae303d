"""Inception-v3 on ImageNet (Szegedy et al., 2015, Section 8).

    python main.py --config=configs/inception_v3.py --workdir=runs/inception_v3

The paper reports 21.2 % top-1 and 5.6 % top-5 error with one crop (Table 3, the 48,238
validation images that are not blacklisted). Not yet run here.

Where the paper says nothing, the recipe follows what its authors released: a weight
decay of 0.00004, 0.9999 for the running average of the parameters, 0.4 for the
auxiliary loss, pixels scaled to [-1, 1] and the augmentation (configs/datasets.py).
Their trainer also had a momentum of 0.9:
--config.optimizer.kwargs="{'decay': 0.9, 'eps': 1.0, 'initial_scale': 1.0,
'momentum': 0.9}".

Differs from the paper: steps of 50 x 32 images are synchronous, where 50 replicas
trained asynchronously. The running average of the parameters starts from their initial
values. It and the batch statistics (model.fields norm_momentum) need 10,000 steps or
more, so a short run needs --config.optimizer.ema_decay=0.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "inception_v3", "inception_v3")
    config = default.get_config()
    datasets.inception(config)
    config.batch_size = 1600
    config.num_epochs = 100.0
    config.model.name = network
    config.loss.label_smoothing = 0.1
    config.loss.auxiliary_weight = 0.4
    config.optimizer.name = "rmsprop"
    config.optimizer.learning_rate = 0.045
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_mask = "kernels"
    config.optimizer.clip_norm = 2.0
    config.optimizer.ema_decay = 0.9999
    config.optimizer.kwargs.decay = 0.9
    config.optimizer.kwargs.eps = 1.0
    config.optimizer.kwargs.initial_scale = 1.0  # TensorFlow's initial mean square
    config.schedule.name = "exponential"
    config.schedule.decay_rate = 0.94
    config.schedule.decay_epochs = 2.0
    config.schedule.staircase = True
    return config
