"""Numbers that no run measured, for the rules and figures of claims."""


def spread(center):
    """Three seeds close to a value."""
    return [center, 1.01 * center, 1.02 * center]


def arms(labels, *centers):
    """{label: three seeds close to a value}."""
    return dict(zip(labels, map(spread, centers), strict=True))
