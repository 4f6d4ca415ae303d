"""Says in a few lines what was found in the splits of a data set."""

import numpy as np

from data_source import image_folder
from errors import shortened

NAMED = 5  # classes that a line names


def describe(*splits, others=False):
    """Describes splits of one data set: classes, images, and what was not read.

    The images of each class are counted where the labels are known without reading the
    records of a TFDS directory. With `others`, of data that nothing was trained on, it
    is said what a test of the one split leaves out because "validation" was held out.
    """
    first = splits[0]
    plural = "es" * (first.num_classes != 1)
    lines = [f"data: {first.name}, {first.num_classes:,} class{plural}"]
    lines += {split.split: f"  {_images(split)}" for split in splits}.values()
    findings = [split.findings for split in splits if split.findings]
    if findings and findings[0].held_out and len(first) < findings[0].files:
        lines.append(f"  validation was held out: {findings[0].held_out}")
        if others:
            lines[-1] += (
                f"; {findings[0].files - len(first):,} images are not tested, and "
                "--change=dataset.eval_split=train+validation tests all"
            )
    ignored = {}
    for found in findings:
        ignored |= found.ignored
    others = sum(ignored.values(), start=image_folder.Counter())
    if kinds := image_folder.kinds(others):
        lines.append(f"  files not read: {kinds}")
    if links := others[image_folder.LINKS]:
        lines.append(
            f"  links followed: {links:,}; an image with two paths counts as two"
        )
    remarks = [remark for found in findings for remark in found.remarks]
    lines += [f"  {remark}" for remark in dict.fromkeys(remarks)]
    return "\n".join(lines)


def _images(split):
    """Says how many images a split has, in all and of each class."""
    plural = "s" * (len(split) != 1)
    line, counts = f"{split.split}: {len(split):,} image{plural}", split.class_counts()
    if counts is None:
        return line
    names, order = split.label_names, np.argsort(counts, kind="stable")
    present = order[counts[order] > 0]
    least, most = present[0], present[-1]
    if counts[least] == counts[most]:
        line += f", {counts[least]:,} of each class"
    else:
        line += f", {counts[least]:,} ({names[least]}) to "
        line += f"{counts[most]:,} ({names[most]}) of a class"
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        line += f"; none of {shortened([names[k] for k in absent], NAMED)}"
    return line
