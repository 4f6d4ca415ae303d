"""GoogLeNet on ImageNet (Szegedy et al., 2014, Sections 5 and 6).

    python main.py --config=configs/googlenet.py --workdir=runs/googlenet

The paper gives momentum 0.9, a learning rate that falls by 4 % every 8 epochs, averaged
weights for the final model, and side heads with weight 0.3. It gives no initial rate,
batch size, weight decay or number of epochs; these come from BVLC's Caffe model (10
million steps of 32), whose biases learn twice as fast as its weights and do not decay.
How fast the average forgets is a guess.

--config=configs/googlenet.py:googlenet_bn trains torchvision's form, and
--config.model.fields="{'naive': True}" the modules of Figure 2 (a).

The paper reports 10.07 % top-5 error with one crop, 7.89 % with 144; BVLC reports
31.3 % top-1 and 11.1 % top-5 with one. Not yet run here.

Differs from the paper: one process trains instead of asynchronous ones. The paper does
not say how far colours change; configs/datasets.py has the choice here.
"""

from configs import datasets, default


def get_config(network="paper"):
    network = default.network(network, "googlenet", "googlenet*")
    config = default.get_config()
    datasets.imagenet(config)
    datasets.googlenet(config)
    config.dataset.std = (1.0, 1.0, 1.0)  # subtract the mean, no scaling
    config.batch_size = 32
    config.num_epochs = 250.0
    config.model.name = network
    config.loss.auxiliary_weight = 0.3
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 2e-4
    config.optimizer.decay_mask = "kernels"
    config.optimizer.rate_factors = (("(?<!_bn)/bias$", 2.0),)
    config.optimizer.ema_decay = 0.9999
    config.optimizer.kwargs.momentum = 0.9
    config.schedule.name = "exponential"
    config.schedule.decay_rate = 0.96
    config.schedule.decay_epochs = 8.0
    config.schedule.staircase = True
    config.eval.protocol = "crops_144"
    return config
