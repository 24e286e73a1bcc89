"""COCO's figures as text."""

from collections.abc import Sequence

from ...runs.names import FIGURES

_SIZES = ("small", "medium", "large")
MEANINGS = dict(zip(FIGURES, ("IoU .50:.95", "IoU .50", "IoU .75", *_SIZES, "1 box", "10 boxes", "100 boxes", *_SIZES)))


def format_table(figures: dict) -> str:
    """Write what `score_results` or `CocoDetectionMetric.compute` returned as a table; `-`: no object to find."""
    lines = []
    for heading, names in (("Average precision", FIGURES[:6]), ("Average recall", FIGURES[6:])):
        lines += [_line("", [MEANINGS[name] for name in names])]
        lines += [_line(heading, [format_figure(figures[name]) for name in names]), ""]
    for heading, part in (("Source", "per_source"), ("Class", "per_class")):
        if figures.get(part):
            lines.append(_line(heading, FIGURES[:6]))
            for name, each in figures[part].items():
                lines.append(_line(str(name), [format_figure(each[key]) for key in FIGURES[:6]]))
            lines.append("")
    return "\n".join(lines).rstrip("\n")


def format_figure(value: float | None) -> str:
    """Write a figure with three digits; `-` where there is nothing to measure: None, or COCO's -1."""
    return "-" if value is None or value < 0 else f"{value:.3f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return (f"{name[:24]:<24}" + "".join(f"{cell:>13}" for cell in cells)).rstrip()
