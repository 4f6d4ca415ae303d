"""Builds the `Setup` of a detector, a network of models.DETECTORS."""

import dataclasses

from detection import evaluator, inputs, objective, sources, views
from errors import ConfigError
from experiment import build, checks
from input_pipeline import GroupedPlan

# Fields of config.detection that say how the objective samples, and what it weighs.
OBJECTIVE = (
    "rpn_batch rpn_fg rpn_iou only_inside rpn_beta roi_batch roi_fg roi_iou "
    "roi_background box_beta spare_crowds"
).split()
# Those that say how an image is shown.
VIEW = "short_side long_side train_short_sides use_difficult flip_vertical".split()


@dataclasses.dataclass(frozen=True)
class Setup(build.Setup):
    """As `build.Setup`, for a detector.

    `preprocessing` and `eval_preprocessing` are an `inputs.Preprocessing`.
    """

    def objective(self):
        detection = self.config.detection
        return objective.Detection(
            self.trained_model,
            self.preprocessing.network_input,
            frozen_statistics=self.config.model.frozen_statistics,
            **{name: detection[name] for name in OBJECTIVE},
        )

    def eval_step(self):
        """Returns the function: (variables, batch) -> faster_rcnn.Detections."""
        return make_step(self.model, self.eval_preprocessing)

    def evaluator(self, step):
        """Returns the detection.evaluator.Detection for a jitted `eval_step`."""
        return make_evaluator(
            self.config, self.eval_split, step, self.eval_preprocessing, self.mesh
        )

    @property
    def tested_shape(self):
        return self.input_shape

    def chosen(self):
        """What was chosen for fields of the config that leave it open."""
        view, detection = self.preprocessing.view, self.config.detection
        found = []
        if not detection.buckets:
            buckets = " and ".join(f"{h}x{w}" for h, w in view.buckets)
            found.append(f"images padded to {buckets} (detection.buckets)")
        if not detection.max_boxes:
            found.append(f"at most {view.max_boxes} objects (detection.max_boxes)")
        return found

    def renumbered(self, number, report):
        """A copy with `number(split, report=...)` of both splits; reports for one."""
        return dataclasses.replace(
            self,
            train_split=number(self.train_split, report=report),
            eval_split=number(self.eval_split, report=lambda line: None),
        )


def setup(config, num_devices=None):
    """Builds the `Setup` of a checked config whose network is a detector.

    The errors are those of `build.setup`.
    """
    mesh = build.make_mesh(config.num_devices if num_devices is None else num_devices)
    train_split, eval_split = (
        open_split(config, name)
        for name in (config.dataset.train_split, config.dataset.eval_split)
    )
    preprocessing = make_preprocessing(config, (train_split, eval_split))
    view = preprocessing.view
    plan = GroupedPlan(view.groups(train_split), config.batch_size, config.seed)
    model = build.make_model(config, train_split.num_classes)
    shape = (*view.buckets[0], train_split.channels)
    variables = build.abstract_variables(model, shape)
    checks.check_parameters(config, variables["params"])
    return Setup(
        config,
        mesh,
        train_split,
        eval_split,
        build.make_durations(config, len(train_split)),
        plan,
        None,
        preprocessing,
        views.TrainView(view, plan),
        preprocessing,
        shape,
        model,
        variables,
        build.rematerialised(config.model.remat, model, shape),
    )


def open_split(config, split):
    """Opens a split of config.dataset's data set of annotated objects."""
    dataset, detection = config.dataset, config.detection
    return sources.open_split(
        dataset.name,
        split,
        data_dir=dataset.data_dir or None,
        download=dataset.download,
        damaged=detection.damaged_boxes,
        unclear=detection.unclear,
    )


def make_preprocessing(config, splits):
    """The `inputs.Preprocessing` of images of some splits."""
    dataset, detection = config.dataset, config.detection
    view = views.make_view(
        splits,
        buckets=detection.buckets,
        max_boxes=detection.max_boxes,
        flip=config.augment.flip,
        interpolation=dataset.interpolation,
        **{name: detection[name] for name in VIEW},
    )
    return inputs.Preprocessing(view, dataset.mean, dataset.std)


def make_step(model, preprocessing):
    """Makes the function: (variables, batch) -> faster_rcnn.Detections."""

    def step(variables, batch):
        images = preprocessing.network_input(batch)
        return model.apply(variables, images, batch["image_size"], train=False)

    return step


def make_evaluator(config, split, step, preprocessing, mesh):
    """Returns the detection.evaluator.Detection of a split for a jitted step."""
    try:
        return evaluator.Detection(
            step,
            split,
            preprocessing.view,
            config.eval.batch_size,
            mesh,
            config.detection.metric,
            {"damaged": config.eval.damaged, **build.reading(config.dataset)},
        )
    except ValueError as error:
        raise ConfigError(f"config.detection: {error}") from error
