"""AlexNet on ImageNet (Krizhevsky, Sutskever, Hinton, 2012, Section 5).

    python main.py --config=configs/alexnet.py --workdir=runs/alexnet

The argument is the network: alexnet (the default), alexnet_ungrouped or
alexnet_one_tower. Their fields set the variants that the paper compares:
--config.model.fields="{'lrn': False}", {'pool_window': 2}, {'activation': 'tanh'},
{'dropout': 0.0}.

The paper reports 40.7 % top-1 and 18.2 % top-5 error on the validation images for one
network with 10 crops; Caffe's network has 42.9 % and 19.8 % with one centre crop.
Normalisation lowers the errors by 1.4 % and 1.2 %, overlapping pooling by 0.4 % and
0.3 %. Not yet run here.

Differs from the paper: crops come from the whole rescaled image, not from the 256x256
pixels of its centre; channel means replace each pixel's mean; the rate falls when the
error has not improved for 5 evaluations, where the authors lowered it by hand, three
times in 90 epochs; biases learn at the rate of the weights, as "an equal learning rate
for all layers" says, where the authors' code has twice that. The single tower is
trained like the others; its paper has its own recipe for many GPUs.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "alexnet", "alexnet*")
    config = default.get_config()
    datasets.imagenet(config)
    config.dataset.std = (1.0,)  # subtract the mean, no scaling
    config.augment.view = "rescale_crop"
    config.augment.short_side = (256, 256)
    config.augment.pca = 0.1
    config.batch_size = 128
    config.num_epochs = 90.0
    config.model.name = network
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_mask = "kernels"  # as in the authors' code
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "plateau"
    config.schedule.decay_rate = 0.1
    config.schedule.patience = 5
    config.schedule.min_factor = 1e-3
    config.eval.protocol = "ten_crop"
    return config
