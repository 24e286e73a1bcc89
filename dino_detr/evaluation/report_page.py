"""The page of a report: HTML that needs nothing but the files beside it."""

from html import escape

from .. import __version__
from ..runs.names import FIGURES
from .coco_results import format_figure
from .errors import ERRORS, ImageMatches
from .report_figures import MOST_BARS, MOST_CELLS

_COLORS = {  # as in the figures, but bright enough for dark pictures
    "right": "#1FC48D",
    "missed": "#FF6A1F",
    "wrong class": "#56B4E9",
    "badly placed": "#F0E442",
    "false": "#F08BC8",
    "crowd": "#B0B0B0",
}
_MEANINGS = {
    "right": "the class is right and the boxes overlap: IoU at least 0.5",
    "missed": "an object that no detection is matched with",
    "wrong class": "a box on an object (IoU at least 0.5), called something else",
    "badly placed": "the right class, but IoU is only 0.1 to 0.5",
    "false": "nothing there, or a second box on an object",
}
_HEADINGS = {
    "AP": "IoU .50:.95",
    "AP50": "IoU .50",
    "AP75": "IoU .75",
    "APs": "small",
    "APm": "medium",
    "APl": "large",
    "AR1": "1 box",
    "AR10": "10 boxes",
    "AR100": "100 boxes",
    "ARs": "small",
    "ARm": "medium",
    "ARl": "large",
}
_MOST_BESIDE = 12  # classes of a confusion matrix that has room for text beside it
_MOST_LABELLED = 12  # boxes of a picture; of more, only the wrong ones are called by name
_MOST_LETTERS = 22
_MOST_UNREAD = 10  # files named

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6472; --line: #e1e5ea; --blue: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 70rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { margin: 0 0 .4rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .4rem 0 .8rem; }
p, figcaption, dt { color: var(--soft); font-size: .92rem; }
dl.facts { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .8rem 0 1.4rem; }
dl.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: .5rem; margin: .5rem 0; }
.tiles.errors { grid-template-columns: repeat(5, 1fr); }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .7rem; min-width: 0; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .8rem; }
.tile.first { background: var(--blue); border-color: var(--blue); color: #fff; }
.tile.first span { color: #fff; }
.scroll { overflow: auto; max-width: 100%; }
.table { max-height: 26rem; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .pairs :nth-child(2):is(th, td) { text-align: left; }
thead th { position: sticky; top: 0; background: #f5f7f9; font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem 2rem; align-items: start; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; }
img.wide { max-width: none; margin: 0 auto; }
.image { margin: 1.2rem 0 1.8rem; break-inside: avoid; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; }
.pair svg { display: block; width: 100%; max-height: 34rem; background: #f5f7f9; border-radius: 4px; }
.pair rect { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2.5px; }
.pair rect.under { stroke: #000; stroke-opacity: .55; stroke-width: 4.5px; }
.pair text { paint-order: stroke; stroke: #000; stroke-width: .22em; stroke-linejoin: round; font-weight: 600; }
.key { white-space: nowrap; margin-right: 1em; }
i.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .3em;
  box-shadow: inset 0 0 0 1px #0004; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
a { color: var(--blue); }
@media (max-width: 44rem) {
  body { padding: 1rem .8rem 2rem; }
  h1 { font-size: 1.45rem; }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .tiles.errors { grid-template-columns: repeat(2, 1fr); }
  .columns, .pair { grid-template-columns: 1fr; }
  th, td { padding: .3rem .5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  h2, h3 { break-after: avoid; }
  .tile, tr { break-inside: avoid; }
  .tile.first { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll, .table { overflow: visible; max-height: none; }
  thead th { position: static; }
  img.wide { max-width: 100%; }
}
"""


_CURVES = """<section>
<h2>Precision and recall</h2>
<p>Going down the scores, how much of what is detected is right, and how much of what is there has been found. The area
under a curve is the average precision beside its name.</p>
<div class="columns">
<figure><img src="precision_recall_50.svg" alt="Precision over recall at IoU 0.5"><figcaption>A detection is right from
IoU 0.50.</figcaption></figure>
<figure><img src="precision_recall_75.svg" alt="Precision over recall at IoU 0.75"><figcaption>From IoU 0.75: the boxes
must fit well.</figcaption></figure>
</div>
</section>"""


def build_page(report: dict, matches: list[ImageMatches]) -> str:
    """
    Args:
        report: what `report.json` holds.
        matches: of the images in `worst_images`.
    """
    name = report["evaluated"].get("checkpoint") or report["evaluated"]["results"]
    title = f"Evaluation of {escape(name.rstrip('/').split('/')[-1])}"
    sections = [_heading(title, report), _figures(report), _CURVES, _bars_and_calibration(report)]
    sections += [_mistakes(report), _pictures(report, matches)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
{chr(10).join(sections)}
<footer>Made by dino-detr {__version__}. The numbers behind every figure are in <a href="report.json">report.json</a>.
</footer>
</body>
</html>
"""


def _heading(title: str, report: dict) -> str:
    facts = "".join(
        f"<div><dt>{escape(name.capitalize())}</dt><dd>{_text(value)}</dd></div>"
        for name, value in report["evaluated"].items()
    )
    return f'<header>\n<h1>{title}</h1>\n<dl class="facts">{facts}</dl>\n</header>'


def _figures(report: dict) -> str:
    rows = []
    for names, what in ((FIGURES[:6], "Average precision"), (FIGURES[6:], "Average recall")):
        tiles = "".join(
            f'<div class="tile{" first" if name == "AP" else ""}"><span>{name}</span>'
            f"<b>{format_figure(report['figures'][name])}</b><span>{_HEADINGS[name]}</span></div>"
            for name in names
        )
        rows.append(f'<p>{what}</p>\n<div class="tiles">{tiles}</div>')
    classes = report["per_class"]
    columns = [column for column in next(iter(classes.values()), {}) if column != "objects"]
    head = "".join(f"<th>{escape(column)}</th>" for column in ("Class", "Objects", *columns))
    body = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{values['objects']:,}</td>"
        + "".join(f"<td>{format_figure(values[column])}</td>" for column in columns)
        + "</tr>"
        for name, values in classes.items()
    )
    return f"""<section>
{chr(10).join(rows)}
<p>As COCO defines them: 0 to 1, a dash where there is no object to find. Small is less than 32&nbsp;x&nbsp;32 pixels,
large from 96&nbsp;x&nbsp;96.</p>
<h2>Classes</h2>
<div class="scroll table"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>
</section>"""


def _mistakes(report: dict) -> str:
    point, errors = report["operating_point"], report["errors"]
    if point["score"] is None:
        counted = "There are no detections: every object is missed."
    else:
        why = "where precision and recall are in the best balance (F1)"
        if not errors["right"]:
            why = "of as many as there are objects, none being right"
        counted = (
            f"Here and below, detections of a score of at least <b>{point['score']:.3g}</b> are counted, {why}: "
            f"precision is {format_figure(point['precision'])}, recall {format_figure(point['recall'])}."
        )
    tiles = "".join(
        f'<div class="tile"><b>{count:,}</b>{_swatch(name)}<span>{name}</span></div>' for name, count in errors.items()
    )
    rows = "\n".join(
        f"<tr><td>{escape(pair['true'])}</td><td>{escape(pair['predicted'])}</td><td>{pair['count']:,}</td>"
        f"<td>{100 * pair['share']:.0f} %</td></tr>"
        for pair in report["most_confused"]
    )
    confused = "<p>No object is taken for one of another class.</p>"
    if rows:
        confused = f"""<div class="scroll table"><table class="pairs">
<thead><tr><th>True class</th><th>Taken for</th><th>Objects</th><th>of the class</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>"""
    num_classes = len(report["per_class"])
    layout, size = ("columns", "narrow") if num_classes <= _MOST_BESIDE else ("", "wide")
    rest = ""
    if num_classes > MOST_CELLS:
        rest = f" The {MOST_CELLS} classes that are most often confused have a row of their own; the rest share one."
    return f"""<section>
<h2>Mistakes</h2>
<p>{counted}</p>
<div class="tiles errors">{tiles}</div>
<p>{"; ".join(f"<b>{name}</b>: {meaning}" for name, meaning in _MEANINGS.items())}.</p>
<h2>Which class is taken for which</h2>
<div class="{layout}">
<figure class="scroll"><img class="{size}" src="confusion.svg" alt="Confusion matrix"></figure>
<div>
<p>Rows are what is there, columns what was detected, on boxes of IoU at least 0.5. The right column counts objects that
were not found, the bottom row detections that found none. The darker, the larger the share of the row: blue is right,
orange is not.{rest}</p>
{confused}
</div>
</div>
</section>"""


def _bars_and_calibration(report: dict) -> str:
    drawn = "<p>Left out: there are scores outside 0 to 1.</p>"
    if report["calibration"] is not None:
        drawn = '<figure><img src="calibration.svg" alt="Share of right detections by score"></figure>'
    which = "each class"
    if sum(values["AP"] >= 0 for values in report["per_class"].values()) > MOST_BARS:
        which = f"the {MOST_BARS // 2} best and the {MOST_BARS // 2} worst classes"
    return f"""<section class="columns">
<div>
<h2>Best and worst classes</h2>
<p>The average precision of {which}, and how many objects of it there are: few of them make it a matter of luck.</p>
<figure><img src="classes.svg" alt="Average precision of each class"></figure>
</div>
<div>
<h2>What a score is worth</h2>
<p>Of all detections of a score, the share that is right (IoU at least 0.5). On the dashed line a score is a
probability: of the detections at 0.7, 7 in 10 are right. Above it scores are too modest, below it too confident.</p>
{drawn}
</div>
</section>"""


def _pictures(report: dict, matches: list[ImageMatches]) -> str:
    names = [*report["per_class"]]
    parts = [_picture(entry, found, names) for entry, found in zip(report["worst_images"], matches)]
    note = report["pictures_left_out"]
    key = " ".join(f'<span class="key">{_swatch(name)}{name}</span>' for name in ("right", *ERRORS))
    if note:
        text = f"<p>Pictures are left out: {escape(note)}</p>"
    elif not parts:
        text = "<p>No image has an error.</p>"
    else:
        text = f"<p>The truth beside what was detected, most errors first.</p>\n<p>{key}</p>"
    unread = report["unreadable_images"]
    if unread:
        listed = "".join(f"<li>{escape(line)}</li>" for line in unread[:_MOST_UNREAD])
        text += (
            f"\n<p>{len(unread)} of the images with errors could not be read and are not shown:</p><ul>{listed}</ul>"
        )
    return f"<section>\n<h2>The images with the most errors</h2>\n{text}\n{chr(10).join(parts)}\n</section>"


def _picture(entry: dict, found: ImageMatches, names: list[str]) -> str:
    counts = ", ".join(f"{entry[error]} {error}" for error in ERRORS if entry[error])
    truth = [
        (box, fate, names[label], names[label])
        for box, fate, label in zip(found.true_boxes, found.true_fates, found.true_labels)
    ]
    detected = []
    for box, fate, label, score, partner in zip(found.boxes, found.fates, found.labels, found.scores, found.partners):
        text = f"{names[label][:_MOST_LETTERS]} {score:.2f}"
        if fate == "wrong class":
            text += f", is {names[found.true_labels[partner]]}"
        detected.append((box, fate, text, f"{names[label]} {score:.3f}"))
    detected.reverse()  # the best on top
    where = f" ({escape(entry['file'])})" if entry["file"] else ""
    panels = "\n".join(
        f"<figure>{_panel(entry, boxes)}<figcaption>{caption}</figcaption></figure>"
        for boxes, caption in ((truth, "Truth"), (detected, "Detected"))
    )
    return f"""<article class="image">
<h3>Image {escape(str(entry["image_id"]))}{where}: {counts}</h3>
<div class="pair">
{panels}
</div>
</article>"""


def _panel(entry: dict, boxes: list[tuple]) -> str:
    """The picture with its boxes over it: (xyxy px, fate, label, what a pointer is told)."""
    width, height = entry["width"], entry["height"]
    size = max(width, 0.6 * height) * 0.034
    boxes = sorted(boxes, key=lambda row: row[1] != "right")  # errors on top
    shapes, labels = [], []
    for (x1, y1, x2, y2), fate, text, told in boxes:
        x, y, w, h = (f"{value:.1f}" for value in (x1, y1, x2 - x1, y2 - y1))
        place = f'x="{x}" y="{y}" width="{w}" height="{h}"'
        title = f"<title>{escape(f'{fate}: {told}')}</title>"
        dashes = ' stroke-dasharray="6 4"' if fate == "false" else ""  # it may be a second box on an object
        shapes.append(f'<rect class="under" {place}/><rect {place} stroke="{_COLORS[fate]}"{dashes}>{title}</rect>')
        if len(boxes) <= _MOST_LABELLED or fate not in ("right", "crowd"):
            anchor, left = ("end", min(x2, width)) if x1 > 0.6 * width else ("start", max(x1, 0))
            bottom = y1 - 0.35 * size if y1 > 1.4 * size else y1 + 1.1 * size
            if fate == "false":  # below, where the label of the first box is not
                bottom = y2 + 1.1 * size if y2 < height - 1.4 * size else y2 - 0.4 * size
            short = text if len(text) <= 2 * _MOST_LETTERS else f"{text[: 2 * _MOST_LETTERS - 1]}…"
            place = f'x="{left:.1f}" y="{bottom:.1f}" text-anchor="{anchor}" fill="{_COLORS[fate]}"'
            labels.append(f"<text {place}>{escape(short)}</text>")
    return (
        f'<svg viewBox="0 0 {width} {height}" font-size="{size:.1f}" role="img">'
        f'<image href="{entry["picture"]}" width="{width}" height="{height}"/>{"".join(shapes)}{"".join(labels)}</svg>'
    )


def _swatch(name: str) -> str:
    return f'<i class="swatch" style="background: {_COLORS[name]}"></i>'


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
