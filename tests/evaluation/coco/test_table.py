"""The table of COCO's figures."""

from helpers.coco_by_hand import FIGURES, make_data

from dino_detr.evaluation import format_table, score_results


def test_table_shows_every_figure_and_class():
    annotations, results = make_data(seed=7)
    figures = score_results(results, annotations)
    table = format_table(figures)
    for value in [figures[name] for name in FIGURES] + [
        value for c in figures["per_class"].values() for value in c.values() if value >= 0
    ]:
        assert f"{value:.3f}" in table
    assert table.splitlines()[-1].split() == ["class", "90", *"------"]
