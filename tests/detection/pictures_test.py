"""The pictures of boxes show them where they are, with their names."""

import functools

import numpy as np
import pytest

from detection import metrics, pictures, records
from detection.split import Split
from evaluation import drawing

NAMES = ("ant", "bee")


def objects(rows, name="a/b.jpg", size=(30, 40)):
    rows = [records.Row("row", box, box, label, **flags) for box, label, flags in rows]
    return records.objects(name, 1, size, rows, records.Damage())


def detections(*rows):
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    boxes = np.float32(boxes).reshape(-1, 4)
    return metrics.Detections(boxes, np.array(scores), np.array(labels, int))


@pytest.fixture
def shown(monkeypatch):
    """The axes of each figure that was saved."""
    found = []

    def save(figure, path):
        found.append(figure.axes)
        drawing.save(figure, path)
        assert path.read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(pictures, "save", save)
    return found


def drawn(axis):
    """{(x1, y1, x2, y2): colour} of an axis' boxes."""
    from matplotlib import colors

    return {
        (*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()): (
            colors.to_hex(p.get_edgecolor())
        )
        for p in axis.patches
    }


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_a_box_of_one_pixel_covers_that_pixel(tmp_path):
    """The picture has 20 pixels for one of the image, and a line less than one."""
    image = np.zeros((20, 20, 3), np.uint8)
    image[5, 7] = 255
    figure, axes = drawing.figure(1, 1, 20 * 20 / drawing.DPI, 20 * 20 / drawing.DPI)
    figure.set_layout_engine("none")
    axes[0, 0].set_position([0, 0, 1, 1])
    layer = pictures.Layer(np.array([[7, 5, 8, 6]]), "#ff0000", width=0.5)
    pictures.show_boxes(axes[0, 0], image, [layer])
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba()).astype(int)
    drawing.save(figure, tmp_path / "pixel.png")
    lit = pixels[..., 0] > 150  # the pixel or its box
    assert (lit & (pixels[..., 1] > 200)).any() and (lit & (pixels[..., 1] < 99)).any()
    scale = pixels.shape[0] / 20
    rows, columns = np.nonzero(lit)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(np.array(found) / scale, [7, 5, 8, 6], atol=0.15)


def test_found_objects_have_names_scores_and_a_colour_for_each_class(tmp_path, shown):
    found = detections(
        ([1, 2, 11, 12], 0.9, 0), ([5, 5, 20, 25], 0.5, 1), ([0, 0, 9, 9], 0.49, 1)
    )
    image = np.zeros((30, 40, 1), np.uint8)
    pictures.draw_found(tmp_path / "found.png", image, found, NAMES)
    (axis,) = shown[0]
    assert drawn(axis) == {
        (1, 2, 11, 12): pictures.COLOURS[0],
        (5, 5, 20, 25): pictures.COLOURS[1],
    }
    assert texts(axis) == ["ant 0.90", "bee 0.50"]


def split_of(*all_objects):
    pixels = np.zeros((30, 40, 3), np.uint8)
    images = (functools.partial(np.asarray, pixels),) * len(all_objects)
    return Split("made", "val", NAMES, all_objects, images)


def test_the_worst_images_show_objects_and_detections(tmp_path, shown):
    box = 2, 3, 20, 25
    split = split_of(
        objects([(box, 0, {})], "dir/right.jpg"),
        objects([(box, 1, {}), ((1, 1, 5, 5), 0, {"crowd": True})], "dir/wrong.jpg"),
        objects([(box, 0, {"difficult": True})], "dir/empty.jpg"),
        objects([(box, 0, {})], "dir/damaged.jpg"),
    )
    images = (*split.images[:3], lambda: b"no image")
    split = Split("made", "val", NAMES, split.objects, images)
    found = [
        detections((box, 0.8, 0)),
        detections((box, 0.8, 0)),
        *[detections()] * 2,
    ]
    pictures.draw_worst(tmp_path / "worst.png", split, found, 2)
    first, second = shown[0]
    assert first.get_title() == "wrong.jpg: 2 wrong"
    assert second.get_title() == "right.jpg: 0 wrong"  # the damaged image is left out
    assert {*drawn(first).values()} == {pictures.BLUE, pictures.RED}
    assert texts(first) == ["bee", "ant (crowd)", "ant 0.80"]
    split = split_of(split.objects[2])
    pictures.draw_worst(tmp_path / "worst.png", split, [detections()])
    assert texts(shown[1][0]) == ["ant (difficult)"]


def test_layers_beside_each_other(tmp_path, shown):
    image = np.zeros((30, 40, 3), np.uint8)
    box = np.array([[1, 2, 3, 4.5]])
    anchors, none = pictures.Layer(box, "#00ff00"), pictures.Layer(box[:0], "#0000ff")
    panels = [("anchors", image, [anchors, none]), ("proposals", image, [none])]
    pictures.draw_layers(tmp_path / "new" / "layers.png", panels, "a caption")
    first, second = shown[0]
    assert (first.get_title(), second.get_title()) == ("anchors", "proposals")
    assert drawn(first) == {(1, 2, 3, 4.5): "#00ff00"} and not drawn(second)


def test_curves_of_precision(tmp_path, shown):
    box, other = (2, 3, 20, 25), (25, 3, 39, 25)
    split = split_of(objects([(box, 0, {}), (other, 0, {})]))
    found = [detections((box, 0.9, 0), ((0, 0, 3, 3), 0.8, 0), (other, 0.7, 0))]
    pictures.draw_curves(tmp_path / "curves.png", split, found)
    ((axis,),) = shown
    (line,) = axis.lines  # the other class has no objects
    np.testing.assert_allclose(line.get_xdata(), [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(line.get_ydata(), [1, 1, 0.5, 2 / 3])
    (label,) = axis.get_legend().get_texts()
    assert label.get_text() == "ant 83.3" and "83.3 %" in axis.get_title()
    assert not axis.get_legend().get_title().get_text()


def test_curves_have_the_ap_of_the_evaluation_s_rule(tmp_path, shown):
    """Of 11 recalls, 0 to 0.5 have a precision of 1 and the others 2/3."""
    box, other = (2, 3, 20, 25), (25, 3, 39, 25)
    split = split_of(objects([(box, 0, {}), (other, 0, {})]))
    found = [detections((box, 0.9, 0), ((0, 0, 3, 3), 0.8, 0), (other, 0.7, 0))]
    for rule, text, title in (
        ("voc07", "ant 84.8", ""),
        ("coco", "ant 83.3", "AP by VOC's area, IoU 0.5"),
    ):
        pictures.draw_curves(tmp_path / "curves.png", split, found, rule)
        legend = shown[-1][0].get_legend()
        assert [x.get_text() for x in legend.get_texts()] == [text]
        assert legend.get_title().get_text() == title


def test_the_curve_of_a_class_that_is_never_found_is_empty(tmp_path, shown):
    split = split_of(objects([((2, 3, 20, 25), 1, {})]))
    pictures.draw_curves(tmp_path / "curves.png", split, [detections()])
    ((axis,),) = shown
    (line,) = axis.lines
    assert len(line.get_xdata()) == 0
    assert axis.get_legend().get_texts()[0].get_text() == "bee 0.0"
