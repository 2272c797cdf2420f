"""The picture of one video: what was glanced at, what was looked at closely, and how the prediction came about.

From top to bottom: the answer; the glance frames along the video's time line, over the weights that the temporal policy
gives them; the frames that were looked at, joined to their places in time, with the patches as boxes; the patches; and
over the same columns the probability after each of these steps.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from ops.report.inspection import Inspection
from ops.report.style import AXES, fitted, new_figure, plain_axes

# Told apart by colour-blind readers too; the lines have markers and dashes of their own besides.
PREDICTED, RUNNER_UP, TRUE, PATCH, WEIGHT = "#0072B2", "#777777", "#009E73", "#D55E00", "#56B4E9"
SPARED = "#f0f0f0"
TOP_CLASSES = 5
SMALL = 7  # points
LARGEST_SIDE = 0.8  # of a frame; this and all below in inches
WIDTH, LEFT, RIGHT = 7.2, 0.95, 0.12  # LEFT is room for the names of the rows
SPAN = WIDTH - LEFT - RIGHT
ROW_NAMES = 0.34  # their distance from the columns
HEADER, WEIGHTS, JOINTS, CURVE = 0.82, 0.42, 0.34, 1.0


def inspection_figure(
    inspection: Inspection,
    *,
    title: str,
    class_names: Sequence[str],
    truth: Sequence[int] = (),
    times: Sequence[float] | None = None,
    unit: str = "s",
) -> Figure:
    """Draw an inspection, 7.2 inches wide at 300 dots per inch, on a figure of its own.

    Args:
        title: the video's name, say.
        class_names: [C].
        truth: the classes that the video has, where they are known.
        times: [T], where in the video the frame of each segment lies, not decreasing, in `unit`; without them the time
            line counts segments from 1.

    Names that are too long lose their middle.
    """
    pitch = SPAN / (inspection.num_focus_segments + 1)  # a column for the glance and one for each patch
    glance_side = min(0.95 * SPAN / len(inspection.glance_segments), LARGEST_SIDE)
    focus_side = min(0.94 * pitch, LARGEST_SIDE)
    heights = (0.1, HEADER, 0.28, glance_side, 0.05, WEIGHTS, JOINTS, focus_side, 0.05, focus_side, 0.36, CURVE, 0.4)
    figure = new_figure(WIDTH, sum(heights), dpi=300)
    bottoms = sum(heights) - np.cumsum(heights)

    def row(number: int, name: str = "") -> Axes:
        bottom, height = bottoms[number] / sum(heights), heights[number] / sum(heights)
        left, middle = (LEFT - ROW_NAMES) / WIDTH, bottom + height / 2
        figure.text(left, middle, name, ha="right", va="center", fontsize=SMALL, color=AXES)
        return figure.add_axes((LEFT / WIDTH, bottom, SPAN / WIDTH, height), label=name)

    _draw_answer(figure, inspection, title, class_names, truth, bottoms[1])
    _draw_glance(row(3, "glance"), inspection, glance_side, times, unit)
    _draw_weights(row(5, "weight"), inspection)
    _draw_joints(row(6), inspection, pitch)
    _draw_squares(row(7, "focus"), inspection, inspection.focus_frames, pitch, focus_side, inspection.boxes)
    _draw_squares(row(9, "patch"), inspection, inspection.patches, pitch, focus_side)
    _draw_curve(row(11, "probability"), inspection, class_names, truth)
    return figure


def _draw_answer(
    figure: Figure, inspection: Inspection, title: str, class_names: Sequence[str], truth: Sequence[int], bottom: float
) -> None:
    """The title, what is true and what came out on the left, the likeliest classes on the right; bottom in inches."""
    height = float(figure.get_figheight())
    final = inspection.step_probabilities[-1]
    predicted = int(final.argmax())
    top, left, room = bottom + HEADER, 0.1, SPAN / 2 + LEFT - 0.3

    def names(numbers: Sequence[int]) -> str:
        """As much of each as has room beside what comes before and after them."""
        return ", ".join(fitted(class_names[number], figure, (room - 1.0) / len(numbers), 8) for number in numbers)

    lines = [f"predicted: {names([predicted])} ({final[predicted]:.2f})"]
    if truth:
        lines.append(f"true: {names(truth)}")
    looked_at, there_are = inspection.exit, inspection.num_focus_segments
    if looked_at < there_are:
        lines.append(f"left after {looked_at} of {there_are} patches" if looked_at else "left after the glance")
    else:
        lines.append(f"looked at all {there_are} patches" if there_are > 1 else "looked at its one patch")
    title = fitted(title, figure, room, 10, "bold")
    figure.text(left / WIDTH, (top - 0.13) / height, title, fontsize=10, fontweight="bold")
    for number, line in enumerate(lines):
        figure.text(left / WIDTH, (top - 0.35 - 0.2 * number) / height, line, fontsize=8)

    likeliest = np.argsort(-final, kind="stable")[:TOP_CLASSES]
    left = LEFT + SPAN / 2
    name_width, bars = 1.75, 1.0  # inches
    tall = 0.16 * len(likeliest)
    area = (left + name_width) / WIDTH, (top - tall) / height, bars / WIDTH, tall / height
    axes = figure.add_axes(area, label="classes")
    axes.set(xlim=(0, 1), ylim=(len(likeliest) - 0.5, -0.5))
    axes.axis("off")
    for place, class_number in enumerate(likeliest):
        colour = TRUE if class_number in truth else RUNNER_UP
        axes.barh(place, final[class_number], height=0.7, color=colour if place else PREDICTED)
        name = fitted(class_names[class_number], figure, name_width - 0.1, SMALL)
        axes.text(-0.06, place, name, ha="right", va="center", fontsize=SMALL)
        axes.text(final[class_number] + 0.04, place, f"{final[class_number]:.2f}", va="center", fontsize=SMALL)


def _draw_glance(axes: Axes, inspection: Inspection, side: float, times: Sequence[float] | None, unit: str) -> None:
    """The glance frames, each in the middle of its share of the time line, whose scale is above them."""
    segments, share = inspection.num_segments, inspection.num_segments / len(inspection.glance_segments)
    half = side / SPAN * segments / 2
    for number, frame in enumerate(inspection.glance_frames):
        middle = (number + 0.5) * share
        axes.imshow(frame, extent=(middle - half, middle + half, 0, 1), aspect="auto")
    axes.set(xlim=(0, segments), ylim=(0, 1), yticks=[])
    axes.xaxis.tick_top()
    axes.spines[["left", "right", "top", "bottom"]].set_visible(False)
    axes.tick_params(labelsize=SMALL, color=AXES, length=2, pad=1)
    places, labels = _time_ticks(segments, times)
    axes.set_xticks(places, labels)
    scale = "segment" if times is None else "time (s)" if unit == "s" else unit
    scale = fitted(scale, axes.figure, LEFT - ROW_NAMES - 0.05, SMALL)
    left, middle = -ROW_NAMES / SPAN * segments, 1 + 0.1 / side
    axes.text(left, middle, scale, ha="right", va="center", fontsize=SMALL, color=AXES)


def _time_ticks(segments: int, times: Sequence[float] | None) -> tuple[np.ndarray, list[str]]:
    """Places on a time line of 0..T, with round times."""
    places = np.array([0.0, *(np.arange(segments) + 0.5), segments])
    times = np.arange(1.0, segments + 1) if times is None else np.asarray(times, dtype=float)
    spacing = (times[-1] - times[0]) / max(1, segments - 1)
    times = np.array([times[0] - spacing / 2, *times, times[-1] + spacing / 2])
    ticks = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(times[0], times[-1])
    ticks = ticks[(ticks >= times[0]) & (ticks <= times[-1])]
    if spacing <= 0:  # one frame that stands for all segments, or a single segment
        ticks, places, times = times[:1], places[[0, -1]], times[0] + np.array([-1, 1])
    decimals = next((d for d in range(4) if np.allclose(ticks, ticks.round(d), atol=1e-9)), 3)
    return np.interp(ticks, times, places), [f"{tick:.{decimals}f}" for tick in ticks]


def _draw_weights(axes: Axes, inspection: Inspection) -> None:
    """A bar under each glance frame, and the height that all would have if they were even."""
    segments, number = inspection.num_segments, len(inspection.frame_weights)
    share = segments / number
    axes.bar((np.arange(number) + 0.5) * share, inspection.frame_weights, width=0.8 * share, color=WEIGHT)
    axes.axhline(1 / number, color=AXES, linewidth=0.6, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, segments), xticks=[])
    largest = float(inspection.frame_weights.max())
    axes.set_ylim(0, 1.12 * max(largest, 1.2 / number))
    axes.set_yticks([0, largest], ["0", f"{largest:.2f}"])
    plain_axes(axes, SMALL, grid=None, length=2, pad=2)


def _draw_joints(axes: Axes, inspection: Inspection, pitch: float) -> None:
    """From each focus frame's place in time to its column."""
    axes.set(xlim=(0, SPAN), ylim=(0, 1), label="joints")
    axes.axis("off")
    for number, segment in enumerate(inspection.focus_segments):
        place, column = (segment + 0.5) / inspection.num_segments * SPAN, pitch * (number + 1.5)
        axes.plot([place, place, column, column], [0.95, 0.75, 0.2, 0.02], color=PATCH, linewidth=0.6)
        axes.plot(place, 0.95, marker="^", markersize=3.2, color=PATCH, markeredgewidth=0, clip_on=False)


def _draw_squares(
    axes: Axes,
    inspection: Inspection,
    pictures: np.ndarray,
    pitch: float,
    side: float,
    boxes: np.ndarray | None = None,
) -> None:
    """Pictures in the columns of the patches, with boxes (pixels) on them, and an empty place for each spared one."""
    axes.axis("off")
    for number in range(inspection.num_focus_segments):
        left = pitch * (number + 1.5) - side / 2
        if number >= len(pictures):
            axes.add_patch(Rectangle((left, 0), side, side, facecolor=SPARED, linewidth=0))
            continue
        axes.imshow(pictures[number], extent=(left, left + side, side, 0), aspect="auto")
        if boxes is not None:
            y, x, height, width = boxes[number] / pictures.shape[1] * side
            axes.add_patch(
                Rectangle(
                    (left + x, y), width, height, fill=False, edgecolor=PATCH, linewidth=1.0,
                    path_effects=[withStroke(linewidth=1.8, foreground="white")],
                )
            )  # fmt: skip
    axes.set(xlim=(0, SPAN), ylim=(side, 0))


def _draw_curve(axes: Axes, inspection: Inspection, class_names: Sequence[str], truth: Sequence[int]) -> None:
    """Probability of the predicted class, the runner-up and a true class after the glance and after each patch."""
    last, final = inspection.num_focus_segments, inspection.step_probabilities[-1]
    order = np.argsort(-final, kind="stable")
    shown = [("predicted", int(order[0]), PREDICTED, "-", "o")]
    if len(order) > 1:
        role, colour = ("true", TRUE) if int(order[1]) in truth else ("runner-up", RUNNER_UP)
        shown.append((role, int(order[1]), colour, (0, (4, 2)), "s"))
    if truth and not set(truth) & {number for _, number, *_ in shown}:
        shown.append(("true", truth[0], TRUE, (0, (1, 1)), "^"))
    steps = np.arange(len(inspection.step_probabilities))
    for place, (role, number, colour, dashes, marker) in enumerate(shown):
        name = fitted(class_names[number], axes.figure, 1.2, SMALL)
        axes.plot(
            steps, inspection.step_probabilities[:, number], color=colour, linestyle=dashes, linewidth=1.2,
            marker=marker, markersize=3, clip_on=False, label=f"{role}: {name}", zorder=2.2 - place / 10,
        )  # fmt: skip
    exit_step = inspection.exit
    axes.axvline(exit_step, color=PATCH, linewidth=1, ymax=1.0, zorder=1)
    axes.text(exit_step, 1.03, "exit", ha="center", va="bottom", fontsize=SMALL, color=PATCH)
    if exit_step < last:
        axes.axvspan(exit_step, last + 0.5, color=SPARED, linewidth=0, zorder=0)
    axes.set(xlim=(-0.5, last + 0.5), ylim=(0, 1.02), yticks=[0, 0.5, 1])
    stride = max(1, -(-last // 24))
    ticks = [0, *range(stride, last + 1, stride)]
    axes.set_xticks(ticks, ["glance", *map(str, ticks[1:])])
    axes.set_xlabel("patches looked at", fontsize=SMALL, labelpad=1, color=AXES)
    plain_axes(axes, SMALL, grid="y", length=2, pad=2)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1.14), ncols=len(shown), fontsize=SMALL, frameon=False, borderaxespad=0,
        handlelength=2.4, columnspacing=1.2,
    )  # fmt: skip
