r"""VGG on ImageNet (Simonyan, Zisserman, 2014, Section 3.1).

    python main.py --config=configs/vgg.py:vgg11 --workdir=runs/vgg11
    python main.py --config=configs/vgg.py:vgg16 --workdir=runs/vgg16

Images are rescaled to a short side of 256 pixels. Training with 384, or with 256 to
512, starts from a network trained before, at a tenth of the learning rate:

    python main.py --config=configs/vgg.py:vgg16 --workdir=runs/vgg16_384 \
      --config.init_from=runs/vgg16 \
      --config.optimizer.learning_rate=0.001 \
      --config.augment.short_side="(384, 384)" --config.dataset.short_side=384 \
      --config.eval.scales="(384,)"

The weights start as in Glorot and Bengio, 2010; the paper found that they then need no
help from a smaller network. With the variance of 0.01 that it prints, which is
--config.model.fields="{'initialization': 'normal'}", the logits of vgg11 begin at 10^8.
The paper's earlier method takes the first four convolutions and the three fully
connected layers from a trained vgg11:

    python main.py --config=configs/vgg.py:vgg16 --workdir=runs/vgg16_from_11 \
      --config.init_from=runs/vgg11 \
      --config.init_layers="('conv1_1', 'conv2_1', 'conv3_[12]', 'fc[678]')"

The argument is the network: vgg16 (the default), vgg11, vgg11_lrn, vgg13, vgg16_c,
vgg19, or vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn, which are not in the paper.

For training and test images with a short side of 256 pixels the paper reports these
top-1/top-5 errors in %: vgg11 29.6/10.4, vgg11_lrn 29.7/10.5, vgg13 28.7/9.9, vgg16_c
28.1/9.4, vgg16 27.0/8.8, vgg19 27.3/9.0. Not yet run here.

Differs from the paper: the rate falls when the error has not improved for 5
evaluations; the paper does not say how it decided that accuracy "stopped improving".
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "vgg16", "vgg?? vgg??_bn vgg11_lrn vgg16_c")
    config = default.get_config()
    datasets.imagenet(config)
    config.dataset.std = (1.0, 1.0, 1.0)  # "subtracting the mean" is all (Section 2.1)
    config.augment.view = "rescale_crop"
    config.augment.short_side = (256, 256)
    config.augment.pca = 0.1
    config.batch_size = 256
    config.num_epochs = 74.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "plateau"  # "decreased 3 times", when accuracy stopped
    config.schedule.decay_rate = 0.1
    config.schedule.patience = 5
    config.schedule.min_factor = 1e-3
    config.eval.protocol = "dense"
    config.eval.scales = (256,)
    return config
