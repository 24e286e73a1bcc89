"""The figures of a report, as SVG whose letters are the viewer's own, so that names of any script are readable."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
GREY = "#767676"

MOST_BARS = 40  # classes of the bars
MOST_CELLS = 25  # classes of the confusion matrix

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
_DASHES = ("-", (0, (5, 2)))
_MOST_CURVES = len(_COLORS) * len(_DASHES)  # that can be told apart
_EXTREMES = 3  # best and worst classes that are named where there are more
_MOST_LETTERS = 22
_FONT_SIZES = dict(zip(range(1, 6), (8, 8, 8, 6, 6)))  # of a number in a cell, by its digits; beyond them 4.5
_RECALLS = np.linspace(0, 1, 101)
_RIGHT = LinearSegmentedColormap.from_list("right", ["white", BLUE])
_WRONG = LinearSegmentedColormap.from_list("wrong", ["white", ORANGE])


def draw_precision_recall(precision: np.ndarray, names: list[str], path: Path) -> None:
    """The curve over all classes and of each; of many classes, the three best and three worst are named.

    Args:
        precision: `[101, K]` at the recalls 0, 0.01, ... 1; -1 for classes without objects.
    """
    with _figure(path, 5.4, 4.9) as figure:
        axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        classes = np.flatnonzero((precision > -1).all(axis=0))
        classes = classes[np.argsort(-precision[:, classes].mean(axis=0), kind="stable")]
        named = list(classes)
        if len(classes) > _MOST_CURVES:
            named = [*classes[:_EXTREMES], *classes[-_EXTREMES:]]
            for label in classes[_EXTREMES:-_EXTREMES]:
                axes.plot(_RECALLS, precision[:, label], color=GREY, alpha=0.3, linewidth=0.7)
        for position, label in enumerate(named):
            axes.plot(
                _RECALLS,
                precision[:, label],
                color=_COLORS[position % len(_COLORS)],
                linestyle=_DASHES[position // len(_COLORS)],
                linewidth=1.2,
                label=f"{_visible(_short(names[label]))} ({precision[:, label].mean():.3f})",
            )
        if len(classes) > 1:
            mean = precision[:, classes].mean(axis=1)
            axes.plot(_RECALLS, mean, color="black", linewidth=2.5, label=f"all classes ({mean.mean():.3f})")
        if len(classes):
            handles, labels = axes.get_legend_handles_labels()
            order = [len(labels) - 1, *range(len(labels) - 1)] if len(classes) > 1 else [0]
            columns = 3 if max(map(len, labels)) <= 20 else 2
            figure.legend(
                [handles[i] for i in order], [labels[i] for i in order], loc="outside lower left", ncols=columns,
                frameon=False, fontsize=8, title="class (average precision)", title_fontsize=8, alignment="left",
            )  # fmt: skip
        else:
            axes.text(0.5, 0.5, "no objects to find", ha="center", color=GREY)


def draw_classes(per_class: dict[str, dict], path: Path) -> None:
    """
    AP and AP50 of each class as bars, the best on top; of more than 40 classes, the 20 best and the 20 worst.

    Args:
        per_class: `{name: {"AP", "AP50", "objects", ...}}`.
    """
    classes = [
        (values["AP"], values["AP50"], name, values["objects"])
        for name, values in per_class.items()
        if values["AP"] >= 0
    ]
    classes.sort(key=lambda row: -row[0])
    if len(classes) > MOST_BARS:
        classes = classes[: MOST_BARS // 2] + classes[-MOST_BARS // 2 :]
    positions = np.arange(len(classes))
    with _figure(path, 5.4, 1.1 + 0.24 * max(len(classes), 5)) as figure:
        axes = figure.add_subplot(xlabel="average precision", xlim=(0, 1))
        axes.barh(positions, [row[1] for row in classes], height=0.72, color=SKY, alpha=0.45, label="AP50")
        axes.barh(positions, [row[0] for row in classes], height=0.36, color=BLUE, label="AP")
        axes.set_yticks(positions, [_short(row[2]) for row in classes])
        axes.set_ylim(max(len(classes), 1) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        right = axes.get_yaxis_transform()
        for position, row in enumerate(classes):
            axes.text(1.14, position, f"{row[3]:,}", transform=right, ha="right", va="center", fontsize=8, color=GREY)
        axes.text(1.14, -0.75, "objects", transform=right, ha="right", va="bottom", fontsize=8, color=GREY)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside upper left", ncols=2, frameon=False, fontsize=8)


def draw_confusion(confusion: np.ndarray, names: list[str], path: Path) -> None:
    """Counts, coloured by their share of the row: blue on the diagonal, orange elsewhere.

    Of more than 25 classes, the 25 that are most often taken for others or others for them; the rest is one.

    Args:
        confusion: int `[K + 1, K + 1]`, true by predicted class, the last row and column being the background.
    """
    confusion, names = _most_confused(confusion, names)
    size = len(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    on_diagonal = np.eye(size, dtype=bool)[..., None]
    colors = np.where(on_diagonal, _RIGHT(shares * 0.9), _WRONG(np.sqrt(shares) * 0.9))  # errors are the smaller ones
    colors[-1, -1] = (0.93, 0.93, 0.93, 1)  # nothing there and nothing found
    side = 2.2 + 0.3 * max(size, 5)
    with _figure(path, side, side) as figure:
        axes = figure.add_subplot(xlabel="predicted", ylabel="true")
        axes.imshow(colors)
        for row, column in np.argwhere(confusion):
            ink = "white" if colors[row, column, :3] @ (0.3, 0.59, 0.11) < 0.55 else "black"
            number = str(confusion[row, column])
            fontsize = _FONT_SIZES.get(len(number), 4.5)
            axes.text(column, row, number, ha="center", va="center", fontsize=fontsize, color=ink)
        shown = [_short(name) for name in names]
        axes.set_xticks(range(size), shown, rotation=90)
        axes.set_yticks(range(size), shown)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for border in np.arange(size - 1) + 0.5:
            width = 1.2 if border == size - 1.5 else 0.4
            axes.axhline(border, color="0.75", linewidth=width)
            axes.axvline(border, color="0.75", linewidth=width)


def draw_calibration(bins: list[dict], path: Path) -> None:
    """Share of right detections by score, and how many there are, for each tenth of the scores."""
    bins = [row for row in bins if row["detections"]]
    with _figure(path, 5.4, 4.6) as figure:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(2.6, 1))
        upper.set(ylabel="share of right detections", ylim=(0, 1.02), xlim=(0, 1))
        lower.set(ylabel="detections", xlabel="score")
        middles = [(row["from"] + row["to"]) / 2 for row in bins]
        upper.bar(middles, [row["share_right"] for row in bins], width=0.092, color=SKY, alpha=0.45)
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="score = share")
        upper.plot(
            [row["mean_score"] for row in bins],
            [row["share_right"] for row in bins],
            color=BLUE, marker="o", markersize=4, label="at the mean score",
        )  # fmt: skip
        upper.legend(loc="upper left", frameon=False, fontsize=8)
        if bins:
            lower.bar(middles, [row["detections"] for row in bins], width=0.092, color=BLUE, log=True)
            lower.set_ylim(0.5)
            lower.yaxis.set_major_formatter("{x:,.0f}")  # the usual one writes formulas
            lower.minorticks_off()
        else:
            upper.text(0.5, 0.5, "no detections", ha="center", color=GREY)


def _most_confused(confusion: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """The matrix with at most `MOST_CELLS` classes of their own, the background last, and the names of its rows."""
    num_classes = len(names)
    names = [*names, "background"]
    if num_classes <= MOST_CELLS:
        return confusion, names
    mistaken = confusion[:-1, :-1] * (1 - np.eye(num_classes, dtype=int))
    missed = confusion[:-1, -1] + confusion[-1, :-1]
    order = np.lexsort((-missed, -(mistaken.sum(0) + mistaken.sum(1))))
    group = np.full(num_classes + 1, MOST_CELLS)  # the row of the smaller matrix
    kept = np.sort(order[:MOST_CELLS])
    group[kept], group[-1] = np.arange(MOST_CELLS), MOST_CELLS + 1
    smaller = np.zeros((MOST_CELLS + 2, MOST_CELLS + 2), dtype=int)
    np.add.at(smaller, (group[:, None], group), confusion)
    return smaller, [*(names[label] for label in kept), f"{num_classes - MOST_CELLS} other classes", "background"]


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, written to a file when it is drawn."""
    style: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a class may be called "$5 - $10"
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # from the font that only measures
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))


def _visible(name: str) -> str:
    """Keep a name from being hidden: matplotlib leaves out of legends what begins with an underscore."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name


def _short(name: str) -> str:
    """Shorten a name to what fits beside an axis, without characters that XML has no place for."""
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"
