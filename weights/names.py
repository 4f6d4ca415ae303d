"""Tables of what other libraries call the layers of our networks, one per family.

A layer of ours is its path without collection and array, "backbone/conv2_1/conv1". A
table is a dict from a regular expression over such paths to the layer's name there, or
to a function of the expression's groups (numbers as int) that returns the name. Where
names count what comes before, the table is a function that names all layers at once.
Tables are read from ours to theirs, for import and export alike.
"""

import re

from weights.formats import WeightsError

RESNET = {
    r"backbone/(conv1|bn1)": lambda layer: layer,
    r"backbone/conv(\d)_(\d+)/(conv\d|bn\d)": lambda stage, block, layer: (
        f"layer{stage - 1}.{block - 1}.{layer}"
    ),
    r"backbone/conv(\d)_(\d+)/shortcut": lambda stage, block: (
        f"layer{stage - 1}.{block - 1}.downsample.0"
    ),
    r"backbone/conv(\d)_(\d+)/shortcut_bn": lambda stage, block: (
        f"layer{stage - 1}.{block - 1}.downsample.1"
    ),
    r"head/fc": "fc",
}

SENET = RESNET | {
    r"backbone/(conv1|bn1)": lambda layer: f"layer0.{layer}",
    r"backbone/(conv|bn)1_(\d)": lambda kind, i: f"layer0.{kind}{i}",
    r"backbone/conv(\d)_(\d+)/se/(fc\d)": lambda stage, block, layer: (
        f"layer{stage - 1}.{block - 1}.se_module.{layer}"
    ),
    r"head/fc": "last_linear",
}

PREACT_RESNET = {
    r"backbone/conv1": "stem.conv",
    r"backbone/bn1": "stages.0.blocks.0.norm1",
    r"backbone/bn_last": "norm",
    r"backbone/conv(\d)_(\d+)/conv(\d)": lambda stage, block, i: (
        f"stages.{stage - 2}.blocks.{block - 1}.conv{i}"
    ),
    r"backbone/conv(\d)_(\d+)/bn(\d)": lambda stage, block, i: (
        f"stages.{stage - 2}.blocks.{block - 1}.norm{i}"
    ),
    r"backbone/conv(\d)_(\d+)/shortcut": lambda stage, block: (
        f"stages.{stage - 2}.blocks.{block - 1}.downsample.conv"
    ),
    r"head/fc": "head.fc",
}

ALEXNET = {
    r"backbone/conv1": "features.0",
    r"backbone/conv2": "features.3",
    r"backbone/conv3": "features.6",
    r"backbone/conv4": "features.8",
    r"backbone/conv5": "features.10",
    r"head/fc6": "classifier.1",
    r"head/fc7": "classifier.4",
    r"head/fc8": "classifier.6",
}


def vgg(layers):
    """Numbers layers by torchvision's Sequential, which counts ReLUs and pools too."""
    names = {"head/fc6": "classifier.0", "head/fc7": "classifier.3"}
    names |= {"head/fc8": "classifier.6", "head/fc": "classifier"}
    place, stage = 0, "1"
    for layer in sorted(layers):
        if found := re.fullmatch(r"backbone/conv((\d)_\d)", layer):
            place += found[2] != stage  # the pool that ends a stage
            stage = found[2]
            names[layer] = f"features.{place}"
            norm = f"backbone/bn{found[1]}"
            names[norm] = f"features.{place + 1}"
            place += 3 if norm in layers else 2
    return names


_GOOGLENET = {
    "1x1": "branch1",
    "3x3_reduce": "branch2.0",
    "3x3": "branch2.1",
    "5x5_reduce": "branch3.0",
    "5x5": "branch3.1",
    "pool_proj": "branch4.1",
}
GOOGLENET = {
    r"backbone/(conv1|conv2_reduce|conv2)(_bn)?": lambda layer, bn: (
        {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}[layer]
        + (".bn" if bn else ".conv")
    ),
    r"backbone/inception_(\d\w)/(.+?)(_bn)?": lambda cell, branch, bn: (
        f"inception{cell}.{_GOOGLENET[branch]}" + (".bn" if bn else ".conv")
    ),
    r"side_heads_(aux\d)/conv(_bn)?": lambda head, bn: (
        f"{head}.conv" + (".bn" if bn else ".conv")
    ),
    r"side_heads_(aux\d)/(fc\d)": lambda head, layer: f"{head}.{layer}",
    r"head/fc": "fc",
}

INCEPTION_V3 = {
    r"backbone/(Conv2d_\w+)/(conv|bn)": lambda layer, kind: f"{layer}.{kind}",
    r"backbone/(Mixed_(?:5|6[b-e]|7[bc]))(\w?)/branch0_0/(conv|bn)": (
        lambda block, letter, kind: f"{block}{letter}.branch1x1.{kind}"
    ),
    r"backbone/(Mixed_\w+)/branch3_1/(conv|bn)": lambda block, kind: (
        f"{block}.branch_pool.{kind}"
    ),
    r"backbone/(Mixed_5\w)/branch1_(\d)/(conv|bn)": lambda block, i, kind: (
        f"{block}.branch5x5_{i + 1}.{kind}"
    ),
    r"backbone/(Mixed_5\w)/branch2_(\d)/(conv|bn)": lambda block, i, kind: (
        f"{block}.branch3x3dbl_{i + 1}.{kind}"
    ),
    r"backbone/Mixed_6a/branch0_0/(conv|bn)": lambda kind: f"Mixed_6a.branch3x3.{kind}",
    r"backbone/Mixed_6a/branch1_(\d)/(conv|bn)": lambda i, kind: (
        f"Mixed_6a.branch3x3dbl_{i + 1}.{kind}"
    ),
    r"backbone/(Mixed_6[b-e])/branch1_(\d)/(conv|bn)": lambda block, i, kind: (
        f"{block}.branch7x7_{i + 1}.{kind}"
    ),
    r"backbone/(Mixed_6[b-e])/branch2_(\d)/(conv|bn)": lambda block, i, kind: (
        f"{block}.branch7x7dbl_{i + 1}.{kind}"
    ),
    r"backbone/Mixed_7a/branch0_(\d)/(conv|bn)": lambda i, kind: (
        f"Mixed_7a.branch3x3_{i + 1}.{kind}"
    ),
    r"backbone/Mixed_7a/branch1_(\d)/(conv|bn)": lambda i, kind: (
        f"Mixed_7a.branch7x7x3_{i + 1}.{kind}"
    ),
    r"backbone/(Mixed_7[bc])/branch1_0/(conv|bn)": lambda block, kind: (
        f"{block}.branch3x3_1.{kind}"
    ),
    r"backbone/(Mixed_7[bc])/branch1_1/branch(\d)_0/(conv|bn)": (
        lambda block, half, kind: f"{block}.branch3x3_2{'ab'[half]}.{kind}"
    ),
    r"backbone/(Mixed_7[bc])/branch2_(\d)/(conv|bn)": lambda block, i, kind: (
        f"{block}.branch3x3dbl_{i + 1}.{kind}"
    ),
    r"backbone/(Mixed_7[bc])/branch2_2/branch(\d)_0/(conv|bn)": (
        lambda block, half, kind: f"{block}.branch3x3dbl_3{'ab'[half]}.{kind}"
    ),
    r"auxiliary_head/conv(\d)/(conv|bn)": lambda i, kind: (
        f"AuxLogits.conv{i - 1}.{kind}"
    ),
    r"auxiliary_head/fc": "AuxLogits.fc",
    r"head/fc": "fc",
}

# timm's Sequential counts the stem's modules and the blocks.
_INCEPTION_V4 = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Mixed_3a Mixed_4a Mixed_5a "
    "Mixed_5b Mixed_5c Mixed_5d Mixed_5e "
    "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_6f Mixed_6g Mixed_6h "
    "Mixed_7a Mixed_7b Mixed_7c Mixed_7d"
).split()
INCEPTION_V4 = {
    r"backbone/(Conv2d_\w+)/(conv|bn)": lambda layer, kind: (
        f"features.{_INCEPTION_V4.index(layer)}.{kind}"
    ),
    r"backbone/(Mixed_[35]a)/branch\d_0/(conv|bn)": lambda block, kind: (
        f"features.{_INCEPTION_V4.index(block)}.conv.{kind}"
    ),
    r"backbone/(Mixed_(?:5[b-e]|6[a-h]|7[b-d]))/branch0_0/(conv|bn)": (
        lambda block, kind: f"features.{_INCEPTION_V4.index(block)}.branch0.{kind}"
    ),
    r"backbone/(Mixed_(?:4a|7a))/branch0_(\d)/(conv|bn)": lambda block, i, kind: (
        f"features.{_INCEPTION_V4.index(block)}.branch0.{i}.{kind}"
    ),
    r"backbone/(Mixed_(?:4a|5[b-e]|6[a-h]|7a))/branch([12])_(\d)/(conv|bn)": (
        lambda block, branch, i, kind: (
            f"features.{_INCEPTION_V4.index(block)}.branch{branch}.{i}.{kind}"
        )
    ),
    r"backbone/(Mixed_7[b-d])/branch([12])_(\d)/(conv|bn)": (
        lambda block, branch, i, kind: (
            f"features.{_INCEPTION_V4.index(block)}.branch{branch}_{i}.{kind}"
        )
    ),
    r"backbone/(Mixed_7[b-d])/branch([12])_(\d)/branch(\d)_0/(conv|bn)": (
        lambda block, branch, i, half, kind: (
            f"features.{_INCEPTION_V4.index(block)}.branch{branch}_{i}{'ab'[half]}.{kind}"
        )
    ),
    r"backbone/(Mixed_\w+)/branch3_1/(conv|bn)": lambda block, kind: (
        f"features.{_INCEPTION_V4.index(block)}.branch3.1.{kind}"
    ),
    r"head/fc": "last_linear",
}


def _inception_resnet_block(size, number):
    """Names timm's blocks; the last has its own name because it has no ReLU."""
    if (size, number) == (8, 10):
        return "block8"
    return f"{ {35: 'repeat', 17: 'repeat_1', 8: 'repeat_2'}[size] }.{number - 1}"


INCEPTION_RESNET_V2 = {
    r"backbone/Conv2d_(\d\w)_\dx\d/(conv|bn)": lambda layer, kind: (
        f"conv2d_{layer}.{kind}"
    ),
    r"backbone/Mixed_(5b|6a)/branch0_0/(conv|bn)": lambda block, kind: (
        f"mixed_{block}.branch0.{kind}"
    ),
    r"backbone/Mixed_7a/branch0_(\d)/(conv|bn)": lambda i, kind: (
        f"mixed_7a.branch0.{i}.{kind}"
    ),
    r"backbone/Mixed_(\d\w)/branch([1-3])_(\d)/(conv|bn)": (
        lambda block, branch, i, kind: f"mixed_{block}.branch{branch}.{i}.{kind}"
    ),
    r"backbone/Block(\d+)_(\d+)/linear": lambda size, number: (
        _inception_resnet_block(size, number) + ".conv2d"
    ),
    r"backbone/Block(\d+)_(\d+)/module/branch0_0/(conv|bn)": (
        lambda size, number, kind: (
            _inception_resnet_block(size, number) + f".branch0.{kind}"
        )
    ),
    r"backbone/Block(\d+)_(\d+)/module/branch([12])_(\d)/(conv|bn)": (
        lambda size, number, branch, i, kind: (
            _inception_resnet_block(size, number) + f".branch{branch}.{i}.{kind}"
        )
    ),
    r"head/fc": "classif",
}

_DENSE_LAYER = {"bottleneck_bn": "norm1", "bottleneck": "conv1"}
_DENSE_LAYER |= {"bn": "norm2", "conv": "conv2"}
DENSENET = {
    r"backbone/conv1": "features.conv0",
    r"backbone/bn1": "features.norm0",
    r"backbone/block(\d)_(\d+)/(\w+)": lambda block, layer, kind: (
        f"features.denseblock{block}.denselayer{layer}.{_DENSE_LAYER[kind]}"
    ),
    r"backbone/transition(\d)/bn": lambda i: f"features.transition{i}.norm",
    r"backbone/transition(\d)/conv": lambda i: f"features.transition{i}.conv",
    r"backbone/bn": "features.norm5",
    r"head/fc": "classifier",
}

DPN = {
    r"backbone/(conv|bn)1": lambda kind: f"features.conv1_1.{kind}",
    r"backbone/(conv\d_\d+)/(c1x1_a|c3x3_b|c1x1_c)/(conv|bn)": (
        lambda block, layer, kind: f"features.{block}.{layer}.{kind}"
    ),
    r"backbone/conv(\d)_1/c1x1_w/(conv|bn)": lambda stage, kind: (
        f"features.conv{stage}_1.c1x1_w_s{1 if stage == 2 else 2}.{kind}"
    ),
    r"backbone/bn5": "features.conv5_bn_ac.bn",
    r"head/fc": "classifier",
}

KERAS_VGG = {
    r"backbone/conv(\d)_(\d)": lambda block, layer: f"block{block}_conv{layer}",
    r"head/fc6": "fc1",
    r"head/fc7": "fc2",
    r"head/fc8": "predictions",
}

KERAS_RESNET = {
    r"backbone/(conv|bn)1": lambda kind: f"conv1_{kind}",
    r"backbone/conv(\d)_(\d+)/(conv|bn)(\d)": lambda stage, block, kind, i: (
        f"conv{stage}_block{block}_{i}_{kind}"
    ),
    r"backbone/conv(\d)_(\d+)/shortcut": lambda stage, block: (
        f"conv{stage}_block{block}_0_conv"
    ),
    r"backbone/conv(\d)_(\d+)/shortcut_bn": lambda stage, block: (
        f"conv{stage}_block{block}_0_bn"
    ),
    r"head/fc": "predictions",
}

_KERAS_DENSE_LAYER = {"bottleneck_bn": "0_bn", "bottleneck": "1_conv"}
_KERAS_DENSE_LAYER |= {"bn": "1_bn", "conv": "2_conv"}
KERAS_DENSENET = {
    r"backbone/(conv|bn)1": lambda kind: f"conv1_{kind}",
    r"backbone/block(\d)_(\d+)/(\w+)": lambda block, layer, kind: (
        f"conv{block + 1}_block{layer}_{_KERAS_DENSE_LAYER[kind]}"
    ),
    r"backbone/transition(\d)/(conv|bn)": lambda i, kind: f"pool{i + 1}_{kind}",
    r"backbone/bn": "bn",
    r"head/fc": "predictions",
}

_INCEPTION_RESNET_ORDER = (
    "Conv2d_[1-4] Mixed_5b Block35 Mixed_6a Block17 Mixed_7a Block8"
).split()


def keras_inception(layers):
    """Numbers layers as Keras does, which counts most of them through a session.

    The numbers here start at 0; `canonical` shifts a file's to match.
    """
    names = {"head/fc": "predictions"}
    names["backbone/Conv2d_7b_1x1/conv"] = "conv_7b"
    names["backbone/Conv2d_7b_1x1/bn"] = "conv_7b_bn"

    def place(layer):
        block = next(
            (i for i, s in enumerate(_INCEPTION_RESNET_ORDER) if re.search(s, layer)),
            -1,
        )
        digits = re.split(r"(\d+)", layer)
        return block, [int(part) if part.isdigit() else part for part in digits]

    resnet = any("/Block" in layer for layer in layers)
    ordered = sorted(layers, key=place if resnet else lambda layer: place(layer)[1])
    counts = {"conv": 0, "bn": 0}
    for layer in ordered:
        kind = layer.rsplit("/", 1)[1]
        if found := re.fullmatch(r"backbone/Block(\d+_\d+)/linear", layer):
            names[layer] = f"block{found[1]}_conv"
        elif layer.startswith("backbone/") and layer not in names:
            name = {"conv": "conv2d", "bn": "batch_normalization"}[kind]
            names[layer] = f"{name}_{counts[kind]}"
            counts[kind] += 1
    return names


_REGIONS = {
    r"rpn/conv": "rpn.head.conv.0.0",
    r"rpn/cls": "rpn.head.cls_logits",
    r"rpn/reg": "rpn.head.bbox_pred",
    r"head/cls": "roi_heads.box_predictor.cls_score",
    r"head/reg": "roi_heads.box_predictor.bbox_pred",
}


def faster_rcnn(layers):
    """Names layers as twins.faster_rcnn, whose regions have a ResNet's last stage."""
    trunk = _by_rules(RESNET, layers)
    last = {layer for layer in trunk if layer.startswith("backbone/conv5_")}
    parts = dict.fromkeys(last, "roi_heads.box_head.")
    names = {n: parts.get(n, "backbone.") + name for n, name in trunk.items()}
    return names | _by_rules(_REGIONS, layers)


# Regular expressions over names of networks give the table, and the layers that are 1x1
# convolutions there but fully connected here.
TORCH = {
    r"alexnet_one_tower": (ALEXNET, ""),
    r"vgg.*": (vgg, ""),
    r"googlenet_bn": (GOOGLENET, ""),
    r"inception_v3": (INCEPTION_V3, ""),
    r"inception_v4": (INCEPTION_V4, ""),
    r"inception_resnet_v2": (INCEPTION_RESNET_V2, ""),
    r"resnet.*|plain.*|resnext.*|wrn_(50|101)_2|wrn_(18|34)_.*": (RESNET, ""),
    r"preact_resnet.*": (PREACT_RESNET, r"head\.fc"),
    r"densenet.*": (DENSENET, ""),
    r"dpn.*": (DPN, "classifier"),
    r"se_.*|senet154": (SENET, r".*\.se_module\.fc\d"),
    r"faster_rcnn": (faster_rcnn, ""),
}
# The networks there that have exactly our layers: package, name, arguments.
_WITH_SIDE_HEADS = {"aux_logits": True, "transform_input": False, "init_weights": False}
TWINS = {
    "alexnet_one_tower": ("torchvision", "alexnet", {}),
    "googlenet_bn": ("torchvision", "googlenet", _WITH_SIDE_HEADS),
    "inception_v3": ("torchvision", "inception_v3", _WITH_SIDE_HEADS),
    "preact_resnet200": ("timm", "resnetv2_50", {"layers": (3, 24, 36, 3)}),
    "wrn_50_2": ("torchvision", "wide_resnet50_2", {}),
    "wrn_101_2": ("torchvision", "wide_resnet101_2", {}),
    "resnext101_32x4d": ("timm", "resnext101_32x4d", {}),
    "senet154": ("timm", "legacy_senet154", {}),
}
for _name in (
    "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn resnet18 resnet34 "
    "resnet50 resnet101 resnet152 resnext50_32x4d resnext101_64x4d resnext101_32x8d "
    "densenet121 densenet161 densenet169 densenet201"
).split():
    TWINS[_name] = ("torchvision", _name, {})
for _name in "inception_v4 inception_resnet_v2 dpn68 dpn92 dpn98 dpn131 dpn107".split():
    TWINS[_name] = ("timm", _name, {})
for _name in (
    "se_resnet50 se_resnet101 se_resnet152 se_resnext50_32x4d se_resnext101_32x4d"
).split():
    TWINS[_name] = ("timm", "legacy_" + _name.replace("se_", "se"), {})

KERAS = {
    r"vgg1[69]": (KERAS_VGG, ""),
    r"inception_v3|inception_resnet_v2": (keras_inception, ""),
    r"resnet(50|101|152)": (KERAS_RESNET, ""),
    r"densenet(121|169|201)": (KERAS_DENSENET, ""),
}
TABLES = {"torch": TORCH, "keras": KERAS}

# What a file's weights need besides their names, by network.
IMAGENET = (
    "their images had dataset.mean=(123.675,116.28,103.53), std=(58.395,57.12,57.375)"
)
_HALVES = "their images had dataset.mean=(127.5,), std=(127.5,)"
_CAFFE = (
    "their images were BGR, for which the first kernels are turned to RGB, and had "
    "dataset.mean=(123.68,116.779,103.939), std=(1,)"
)
# The fields of config.model that make a network theirs in a file of this kind that has
# such a name, and why.
_STRIDES = {"stride_on": "3x3"}, "their strides are on the 3x3 convolutions"
_FIRST_STRIDES = {"stride_on": "1x1"}, "their strides are on the 1x1 convolutions"
_NEWER_SENET, _SENET = r"\.se\.fc\d\.", r"\.se_module\."
FIELDS = (
    ("torch", r"resnet(50|101|152)|wrn_(50|101)_2|preact_resnet200", "", *_STRIDES),
    ("keras", r"resnet(50|101|152)", "", *_FIRST_STRIDES),
    ("torch", r"faster_rcnn", r"\blayer1\.0\.conv3\.", *_STRIDES),
    (
        "torch",
        r"faster_rcnn",
        r"\broi_heads\.",
        {"pooling": "align"},
        "their regions are pooled by RoIAlign",
    ),
    (
        "torch",
        r"inception_v3",
        "",
        {"count_include_pad": True},
        "their average pools count padding",
    ),
    (
        "keras",
        r"inception_v3",
        "",
        {"count_include_pad": False},
        "their average pools do not count padding",
    ),
    (
        "torch",
        r"se_resnet.*",
        _NEWER_SENET,
        {"stride_on": "3x3", "padded_pool": True},
        "of timm's newer networks strides are on the 3x3 and the first pool is padded",
    ),
    (
        "torch",
        r"se_resnext.*",
        _NEWER_SENET,
        {"padded_pool": True},
        "of timm's newer networks the first pool is padded",
    ),
    ("torch", r"se_resnet.*", _SENET, *_FIRST_STRIDES),
    (
        "torch",
        r"se_resne(t|xt).*",
        _SENET,
        {"padded_pool": False},
        "of the authors' networks the first pool is not padded",
    ),
)
# Networks whose arrays another one there has, too, and how that one differs.
DOUBLES = {
    "vgg11_lrn": "its arrays are those of torchvision's VGG-11, which has no local "
    "response normalisation and is config.model.name = 'vgg11'"
}
NOTES = {
    "torch": {
        r"preact_resnet200": "timm's first pool comes ahead of its batch "
        "normalisation, which is the same where bn1/scale is not negative",
        r"googlenet_bn|inception.*": _HALVES,
        r"dpn.*": "their images had dataset.mean=(124,117,104), std=(59.88,)",
        r"faster_rcnn": IMAGENET,
        "|".join(n for n in TWINS if not re.match("googlenet|inception|dpn|pre", n)): (
            IMAGENET
        ),
    },
    "keras": {
        r"vgg.*|resnet.*": _CAFFE,
        r"inception.*": _HALVES,
        r"densenet.*": IMAGENET,
    },
}

_UNTOLD = (
    "the file does not tell its anchor_style, anchor_sizes, anchor_ratios, box_weights "
    "and pool_size: config.model.fields must be those that it was trained with"
)

ARRAYS = {
    "torch": {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    },
    "keras": {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"},
}

# The layers that give class scores, including those of side heads.
CLASSIFIERS = re.compile(
    r"head/(fc|fc8|fc9|cccp6|cccp8|cls|reg)|output|auxiliary_head/fc|side_heads_aux\d/fc2"
)


def notes(kind, network, loaded=()):
    """Says what a file of `network` needs besides names and fields, as sentences.

    Args:
      loaded: our names of what is taken of it.
    """
    patterns = NOTES.get(kind, {})
    found = [note for name, note in patterns.items() if re.fullmatch(name, network)]
    if kind == "torch" and network == "faster_rcnn":
        regions = any(re.match("params/(rpn|head)/", name) for name in loaded)
        found += [_UNTOLD] if regions else []
    return found


def flags(fields):
    """The flags that set these fields and keep the others."""
    return " ".join(f"--config.model.fields.{n}={v}" for n, v in fields.items())


def needed_fields(kind, network, arrays=()):
    """The fields of config.model that make `network` theirs, and why: ({}, "") if none.

    Args:
      arrays: the file's own names; some of them tell the version.
    """
    fields, reasons = {}, []
    for kinds, networks, name, needed, why in FIELDS:
        named = not name or any(re.search(name, own) for own in arrays)
        if kind == kinds and named and re.fullmatch(networks, network):
            fields |= needed
            reasons.append(why)
    return fields, " and ".join(reasons)


def table(kind, network):
    """A network's (table of layers, regular expression of 1x1 convolutions), or None.

    Args:
      kind: "torch" for torchvision and timm, "keras".
      network: a name of models.MODELS.
    """
    for pattern, found in TABLES[kind].items():
        if re.fullmatch(pattern, network):
            return found
    return None


def foreign(kind, network, arrays):
    """Their names for our arrays: {"params/head/fc/kernel": "fc.weight", ...}.

    Args:
      arrays: our names; the result leaves out those without a name there.
    """
    rules, _ = table(kind, network)
    layers = {name.split("/", 1)[1].rsplit("/", 1)[0] for name in arrays}
    known = rules(layers) if callable(rules) else _by_rules(rules, layers)
    result = {}
    for name in arrays:
        collection, path = name.split("/", 1)
        layer, array = path.rsplit("/", 1)
        if layer not in known:
            continue
        theirs = ARRAYS[kind].get(array, array)
        if kind == "keras" and array == "bias" and f"params/{layer}/scale" in arrays:
            theirs = "beta"
        result[name] = f"{known[layer]}{'.' if kind == 'torch' else '/'}{theirs}"
    return result


def _by_rules(rules, layers):
    """{layer: their name} for the layers that match a rule."""
    names = {}
    for layer in layers:
        for pattern, name in rules.items():
            if found := re.fullmatch(pattern, layer):
                if callable(name):
                    groups = found.groups()
                    name = name(*(int(g) if g and g.isdigit() else g for g in groups))
                names[layer] = name
                break
    return names


_TIMM = {
    "vgg": {
        r"^pre_logits\.fc1\.": "classifier.0.",
        r"^pre_logits\.fc2\.": "classifier.3.",
        r"^head\.fc\.": "classifier.6.",
    },
    "se": {
        r"\.se\.(fc\d)\.": r".se_module.\1.",
        r"^(conv1|bn1)\.": r"layer0.\1.",
        r"^fc\.": "last_linear.",
    },
    # A ResNet classifier's names, and what `unwrapped` leaves of a detector's.
    "faster": {
        r"^(conv1|bn1|layer[1-3])\.": r"backbone.\1.",
        r"^layer4\.": "roi_heads.box_head.layer4.",
    },
}


# What wrappers of a network, and the objects that hold it, put in front of its names.
_WRAPPED = re.compile(
    r"((module|model|_orig_mod|backbone|net|network|state_dict|model_state)\.)+"
)
_AVERAGED = re.compile(r"(model_ema|state_dict_ema|ema_model|ema)\.")


def unwrapped(source, arrays):
    """Takes wrappers' names off a file's names: ({name: array}, notes).

    Those of wrapped parts, such as "features.module.0.weight", are inside.
    Names of a moving average beside others are kept, so that they fit nothing.

    Raises:
      WeightsError: two arrays would get one name.
    """
    if all(map(_AVERAGED.match, arrays)):
        arrays = {_AVERAGED.sub("", name, 1): value for name, value in arrays.items()}
    result, prefixes = {}, {}
    for name, value in arrays.items():
        prefix = found[0] if (found := _WRAPPED.match(name)) else ""
        prefixes[prefix] = None
        short, inside = re.subn(r"\.(module\.)+", ".", name.removeprefix(prefix))
        if inside:
            prefixes[".module."] = None
        if short in result:
            raise WeightsError(
                f"{source} has {short} under several of the prefixes "
                f"{', '.join(prefixes)}: choose one by config.init_key"
            )
        result[short] = value
    left_off = [prefix for prefix in prefixes if prefix]
    notes = [f"{', '.join(left_off)} is left off their names"] if left_off else []
    return result, notes


# What the layer of class scores is called in one library or another.
HEADS = "linear classifier head head.fc last_linear fc".split()


def with_head(arrays, theirs):
    """Gives a head that has another usual name the name of the table.

    Args:
      arrays: {name: array} of torch.
      theirs: {our name: their name}.

    Returns:
      (arrays, the head's name in the file or None, notes).
    """
    kernels = [n for n in theirs if n.endswith("/kernel") and is_class_score(n)]
    known = {theirs[n].removesuffix(".weight") for n in kernels if not side_head(n)}
    found = [n for n in (*known, *HEADS) if f"{n}.weight" in arrays]
    if not found or found[0] in known:
        return arrays, found[0] if found else None, []
    if len(found) > 1 or len(known) > 1:
        return arrays, None, []
    (name,), (head,) = found, known
    renamed = {
        head + n.removeprefix(name) if n in (f"{name}.weight", f"{name}.bias") else n: a
        for n, a in arrays.items()
    }
    return renamed, name, [f"their head is called {name}"]


def is_class_score(name):
    """Whether an array of ours belongs to a layer that gives class scores."""
    layer = name.split("/", 1)[1].rsplit("/", 1)[0]
    return CLASSIFIERS.fullmatch(layer) is not None


def side_head(name):
    """The side head that an array of ours belongs to; "" for the network itself."""
    found = re.match(r"\w+/(auxiliary_head|side_heads_\w+?)/", name)
    return found[1] if found else ""


def is_resnet(network):
    """Whether the layers of a network are called as those of torchvision's ResNet."""
    known = table("torch", network)
    return known is not None and known[0] is RESNET


def canonical(kind, network, arrays):
    """Brings a file's names to the spelling of the tables, since spellings vary.

    torchvision's older DenseNet files have norm.1 for norm1. timm's VGG has another
    head, and its newer SENets have other names than the authors'. A detector's ResNet
    may come with the names of a classifier. keras numbers layers
    through a session, so that a network may begin at conv2d_94; older versions write
    conv1/conv for conv1_conv.
    """
    result = {}
    if kind == "torch":
        family = re.match("vgg|se|faster|", network)[0]
        spellings = _TIMM.get(family, {})
        for name, value in arrays.items():
            name = re.sub(r"(denselayer\d+\.)(norm|conv)\.(\d)", r"\1\2\3", name)
            for pattern, spelling in spellings.items():
                name = re.sub(pattern, spelling, name)
            result[name] = value
        return result
    numbered = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/")
    numbers = {"conv2d": set(), "batch_normalization": set()}
    for name in arrays:
        if found := numbered.match(name):
            numbers[found[1]].add(int(found[2] or 0))
    ranks = {
        kind: {number: i for i, number in enumerate(sorted(found))}
        for kind, found in numbers.items()
    }
    for name, value in arrays.items():
        if found := numbered.match(name):
            rank = ranks[found[1]][int(found[2] or 0)]
            name = f"{found[1]}_{rank}/{name.rsplit('/', 1)[1]}"
        else:
            layer, array = name.rsplit("/", 1)
            name = layer.replace("/", "_") + "/" + array
        result[name] = value
    return result
