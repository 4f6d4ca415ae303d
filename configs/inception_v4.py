"""Inception-v4 and Inception-ResNet-v2 on ImageNet (Szegedy et al., 2016, Section 4).

    python main.py --config=configs/inception_v4.py --workdir=runs/inception_v4

The argument is the network: inception_v4 (the default) or inception_resnet_v2, as
in --config=configs/inception_v4.py:inception_resnet_v2. The paper reports 20.0 % top-1
and 5.0 % top-5 error for the former and 19.9 % and 4.9 % for the latter, with one crop
(Table 2, the validation images that are not blacklisted). Not yet run here.

Where the paper says nothing, the recipe follows its authors' one for Inception-v3 (see
configs/inception_v3.py): 32 images for each of the 20 replicas, 100 epochs, label
smoothing, clipping, weight decay, running average and augmentation.

Differs from the paper: steps of 20 x 32 images are synchronous, where 20 replicas
trained asynchronously. A short run needs --config.optimizer.ema_decay=0 and a lower
norm_momentum among model.fields.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(
        network, "inception_v4", "inception_v4 inception_resnet_v2"
    )
    config = default.get_config()
    datasets.inception(config)
    config.batch_size = 640
    config.num_epochs = 100.0
    config.model.name = network
    config.loss.label_smoothing = 0.1
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
