"""ops/report/inspection_figure.py: the picture shows the inspection, whatever the sizes and the names."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ops.report.inspection_figure import PATCH, PREDICTED, RUNNER_UP, SPARED, TRUE, inspection_figure
from tests.inspections import make_inspection

NAMES = ["running", "jumping", "diving", "rowing", "skiing", "fencing"]


def axes_of(figure: Figure, name: str):
    (found,) = [axes for axes in figure.axes if axes.get_label() == name]
    return found


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts] + [text.get_text() for axes in figure.axes for text in axes.texts]


def rectangles(axes, colour: str, filled: bool) -> list[Rectangle]:
    return [
        patch for patch in axes.patches
        if isinstance(patch, Rectangle)
        and to_hex(patch.get_facecolor() if filled else patch.get_edgecolor()) == colour.lower()
        and patch.get_fill() == filled
    ]  # fmt: skip


def test_the_rows_show_what_was_seen():
    inspection = make_inspection()
    figure = inspection_figure(inspection, title="a video", class_names=NAMES)
    glance, weight, focus, patch = (axes_of(figure, name) for name in ("glance", "weight", "focus", "patch"))

    for axes, pictures in (
        (glance, inspection.glance_frames), (focus, inspection.focus_frames), (patch, inspection.patches)
    ):  # fmt: skip
        assert len(axes.images) == len(pictures)
        assert all(
            np.array_equal(image.get_array(), picture) for image, picture in zip(axes.images, pictures, strict=True)
        )
    bars = weight.patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], inspection.frame_weights, rtol=1e-5)
    for bar, image in zip(bars, glance.images, strict=True):  # each under its frame
        left, right, bottom, top = image.get_extent()
        assert bar.get_x() + bar.get_width() / 2 == pytest.approx((left + right) / 2)
        assert (bottom, top) == glance.get_ylim() == (0, 1)  # upright
    (even,) = weight.lines
    assert list(even.get_ydata()) == [1 / 8, 1 / 8]
    assert [label.get_text() for label in weight.get_yticklabels()] == ["0", f"{inspection.frame_weights.max():.2f}"]
    assert weight.get_xlim() == glance.get_xlim() == (0, 16)
    assert weight.get_position().x0 == glance.get_position().x0
    assert weight.get_position().x1 == glance.get_position().x1


def test_boxes_lie_where_the_patches_were_cut():
    inspection = make_inspection()
    focus = axes_of(inspection_figure(inspection, title="a video", class_names=NAMES), "focus")
    boxes = rectangles(focus, PATCH, filled=False)
    assert len(boxes) == 4
    for box, image, (top, left, height, width) in zip(boxes, focus.images, inspection.boxes, strict=True):
        start, stop, bottom, _ = image.get_extent()
        side = stop - start
        assert bottom == pytest.approx(side)  # square
        assert box.get_xy() == pytest.approx((start + left / 64 * side, top / 64 * side))
        assert (box.get_width(), box.get_height()) == pytest.approx((width / 64 * side, height / 64 * side))


def test_focus_frames_are_joined_to_their_places_in_time():
    inspection = make_inspection()
    figure = inspection_figure(inspection, title="a video", class_names=NAMES)
    focus, (joints,) = axes_of(figure, "focus"), [axes for axes in figure.axes if axes.get_label() == "joints"]
    lines = [line for line in joints.lines if len(line.get_xdata()) > 1]
    share_of_width = [line.get_xdata()[0] / joints.get_xlim()[1] for line in lines]
    np.testing.assert_allclose(share_of_width, (inspection.focus_segments + 0.5) / 16)
    for line, image in zip(lines, focus.images, strict=True):
        left, right = image.get_extent()[:2]
        assert line.get_xdata()[-1] == pytest.approx((left + right) / 2)


def test_the_curve_shows_the_predicted_class_the_runner_up_and_the_true_one_above_the_patches():
    inspection = make_inspection()
    order = np.argsort(-inspection.step_probabilities[-1])
    truth = int(order[3])
    figure = inspection_figure(inspection, title="a video", class_names=NAMES, truth=[truth])
    curve = axes_of(figure, "probability")
    lines = {line.get_label(): line for line in curve.lines}
    for role, number, colour in (
        ("predicted", order[0], PREDICTED), ("runner-up", order[1], RUNNER_UP), ("true", truth, TRUE)
    ):  # fmt: skip
        line = lines[f"{role}: {NAMES[number]}"]
        assert line.get_color() == colour
        assert line.get_xdata().tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(line.get_ydata(), inspection.step_probabilities[:, number])
    assert [label.get_text() for label in curve.get_xticklabels()] == ["glance", "1", "2", "3", "4"]
    names = [text.get_text() for text in curve.get_legend().get_texts()]
    assert [name.partition(":")[0] for name in names] == ["predicted", "runner-up", "true"]
    # A step stands below its patch: both share the columns of the picture.
    figure.canvas.draw()
    for step, image in enumerate(axes_of(figure, "patch").images, start=1):
        left, right = image.get_extent()[:2]
        below = curve.transData.transform((step, 0))[0]
        assert below == pytest.approx(image.axes.transData.transform(((left + right) / 2, 0))[0], abs=0.5)


def test_the_answer_stands_in_words_and_bars():
    inspection = make_inspection()
    final = inspection.step_probabilities[-1]
    order = np.argsort(-final)
    figure = inspection_figure(inspection, title="a video", class_names=NAMES, truth=[int(order[1])])
    texts = texts_of(figure)
    best = NAMES[order[0]]
    assert {"a video", f"predicted: {best} ({final.max():.2f})", f"true: {NAMES[order[1]]}"} <= set(texts)
    assert "looked at all 4 patches" in texts
    bars = axes_of(figure, "classes").patches
    beside = [text.get_text() for text in axes_of(figure, "classes").texts]
    assert beside == [text for number in order[:5] for text in (NAMES[number], f"{final[number]:.2f}")]
    np.testing.assert_allclose([bar.get_width() for bar in bars], final[order[:5]], rtol=1e-5)
    colours = [to_hex(bar.get_facecolor()).upper() for bar in bars]
    assert colours[:2] == [PREDICTED, TRUE] and len(set(colours[2:])) == 1


@pytest.mark.parametrize(("looked_at", "words"), [(0, "left after the glance"), (3, "left after 3 of 4 patches")])
def test_an_early_exit_is_marked_and_the_spared_patches_stay_empty(looked_at, words):
    figure = inspection_figure(make_inspection(looked_at=looked_at), title="a video", class_names=NAMES)
    for name in ("focus", "patch"):
        axes = axes_of(figure, name)
        assert len(axes.images) == looked_at and len(rectangles(axes, SPARED, filled=True)) == 4 - looked_at
    curve = axes_of(figure, "probability")
    (mark,) = [line for line in curve.lines if line.get_color() == PATCH]
    assert set(mark.get_xdata()) == {looked_at}
    (spared,) = curve.patches
    across = spared.get_path().transformed(spared.get_patch_transform()).vertices[:, 0]
    assert (across.min(), across.max()) == (looked_at, 4.5)
    assert [text.get_position()[0] for text in curve.texts if text.get_text() == "exit"] == [looked_at]
    assert words in texts_of(figure)


def test_the_time_line_has_the_times_it_is_given():
    times = np.linspace(1, 31, 16)
    glance = axes_of(inspection_figure(make_inspection(), title="v", class_names=NAMES, times=times), "glance")
    ticks = {
        label.get_text(): place for label, place in zip(glance.get_xticklabels(), glance.get_xticks(), strict=True)
    }
    assert ticks["5"] == pytest.approx(2.5)  # segment 2 shows second 5
    assert glance.texts[0].get_text() == "time (s)"
    counted = axes_of(inspection_figure(make_inspection(), title="v", class_names=NAMES), "glance")
    ticks = dict(zip([label.get_text() for label in counted.get_xticklabels()], counted.get_xticks(), strict=True))
    assert ticks["2"] == pytest.approx(1.5) and counted.texts[0].get_text() == "segment"


def test_no_text_leaves_the_picture_or_covers_another():
    long = "a name of a class that goes on and on, well beyond what there is room for in any picture, number"
    names = [f"{long} {number}" for number in range(200)]
    inspection = make_inspection(48, 16, 16, 16, classes=200)
    figure = inspection_figure(inspection, title=long, class_names=names, truth=[1, 2, 3], unit=long, times=range(48))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    curve = axes_of(figure, "probability")
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts), *curve.get_legend().get_texts()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for place, (text, box) in enumerate(boxes):
        for other_text, other in boxes[place + 1 :]:
            assert not box.overlaps(other), (text, other_text)


@pytest.mark.parametrize(
    "sizes",
    [
        {"segments": 1, "glance": 1, "focus": 1, "looked_at": 1, "classes": 1},
        {"segments": 48, "glance": 48, "focus": 48, "looked_at": 48, "classes": 400},
        {"segments": 48, "glance": 16, "focus": 16, "looked_at": 0, "classes": 2},
    ],
    ids=["one of all", "many", "glance only"],
)
def test_any_sizes_and_names_can_be_drawn(sizes):
    odd = ["$x^2$", "_hidden", "日本語", r"\frac{$", "a\tb", "%s {x}"]
    names = [odd[number % len(odd)] + str(number) for number in range(sizes["classes"])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = inspection_figure(
            make_inspection(**sizes), title="$日本$", class_names=names, truth=[0], times=[3.0] * sizes["segments"]
        )
        figure.set_dpi(40)
        figure.canvas.draw()
    assert len(axes_of(figure, "glance").get_xticks()) == 1  # all at the same time
