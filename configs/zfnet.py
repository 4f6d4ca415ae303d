"""ZFNet on ImageNet (Zeiler, Fergus, 2013, Section 3.1).

    python main.py --config=configs/zfnet.py --workdir=runs/zfnet

The argument is the network: zfnet (the default) or zfnet_b. The paper reports 38.4 %
top-1 and 16.5 % top-5 error on the validation images for the first, 37.5 % and 16.0 %
for (b). It does not describe its test, which is that of AlexNet's ten crops here. Not
yet run here.

Differs from the paper: crops lie anywhere in the image, not only in the four corners
and the centre; channel means replace each pixel's mean; the rate falls when the error
has not improved for 5 evaluations, where the authors lowered it by hand. The paper
gives no weight decay, and none is used.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "zfnet", "zfnet*")
    config = default.get_config()
    datasets.imagenet(config)
    config.dataset.std = (1.0,)  # subtract the mean, no scaling
    config.augment.view = "rescale_crop"
    config.augment.short_side = (256, 256)
    config.batch_size = 128
    config.num_epochs = 70.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.kwargs.momentum = 0.9
    config.optimizer.filter_rms = (("conv[0-9]/kernel", 0.1),)
    config.schedule.name = "plateau"
    config.schedule.decay_rate = 0.1
    config.schedule.patience = 5
    config.schedule.min_factor = 1e-3
    config.eval.protocol = "ten_crop"
    return config
