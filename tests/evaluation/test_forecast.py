"""Forecasts of AP: the fits against other ways to find them, intervals against simulation, files as they come."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import curve_fit
from scipy.stats import linregress, t
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from dino_detr.cli import main
from dino_detr.evaluation.forecast import (
    bootstrap_interval,
    curve,
    delta_interval,
    fit_learning_curve,
    forecast_ap,
    format_forecast,
)
from dino_detr.evaluation.forecast.history import read_ap_history
from dino_detr.runs.history import learning_rate_drops
from dino_detr.training.optimizer import build_step_schedule

STEPS = np.arange(2500, 90001, 2500.0)
# the power law that the reference reports of its 12 epochs, whose forecast is 54.54 at step 375,000
A, B, C = 58.2154, 2212.70, 0.4987


def power_law(x, a, b, c):
    return a - b * np.asarray(x, dtype=float) ** -c


def simulate(seed, steps=STEPS, parameters=(A, B, C), noise=0.25, jump=1.2):
    """A history in 0..100, with a jump after step 82,500, where the reference drops its rate."""
    errors = np.random.default_rng(seed).normal(0, noise, len(steps))
    return power_law(steps, *parameters) + errors + jump * (steps > 82_500)


def search_exponent(x, y):
    """c by brute force, a line fitted against x^-c: ever finer grids around the best."""
    low, high = 0.01, 5.0
    for _ in range(6):
        grid = np.linspace(low, high, 2001)
        squares = [np.polyfit(x**-c, y, 1, full=True)[1][0] for c in grid]
        best = int(np.argmin(squares))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 2000)]
    c = grid[best]
    slope, intercept = np.polyfit(x**-c, y, 1)
    return intercept, -slope, c


def test_the_reference_s_own_parameters_are_found():
    fit = fit_learning_curve(STEPS, power_law(STEPS, A, B, C))["power_law"]
    assert [fit[key] for key in "abc"] == pytest.approx([A, B, C], rel=1e-6)
    assert fit["rmse"] < 1e-6
    assert curve("power_law", fit, 375_000) == pytest.approx(54.54, abs=0.005)


@pytest.mark.parametrize(
    ("seed", "parameters", "jump"),
    [(0, (A, B, C), 1.2), (1, (A, B, C), 0.0), (2, (A, B, C), 3.0), (3, (70, 180, 0.15), 1.2), (4, (45, 3e5, 1.2), 0)],
)
def test_fits_are_the_least_squares(seed, parameters, jump):
    y = simulate(seed, parameters=parameters, jump=jump)
    fits = fit_learning_curve(STEPS, y)
    a, b, c = search_exponent(STEPS, y)
    assert [fits["power_law"][key] for key in "abc"] == pytest.approx([a, b, c], rel=1e-5)
    assert curve("power_law", fits["power_law"], 375_000) == pytest.approx(power_law(375_000, a, b, c), abs=1e-5)

    assert [fits["logarithmic"][key] for key in "ab"] == pytest.approx(np.polyfit(np.log(STEPS), y, 1), rel=1e-8)
    columns = np.stack([np.log(STEPS), STEPS / 1e5, np.ones(36)], axis=1)
    a, b, c = np.linalg.solve(columns.T @ columns, columns.T @ y)
    assert [fits["log_linear"][key] for key in "abc"] == pytest.approx([a, b / 1e5, c], rel=1e-7)
    for name, fit in fits.items():
        assert fit["rmse"] == pytest.approx(math.sqrt(((curve(name, fit, STEPS) - y) ** 2).mean()), rel=1e-12)


def test_units_order_and_repeats_change_nothing():
    y = simulate(5)
    expected = fit_learning_curve(STEPS, y)
    order = np.random.default_rng(0).permutation(36)
    steps, values = np.append(STEPS[order[:1]], STEPS[order]), np.append(0.0, y[order])  # a step again: the last counts
    for name, fit in fit_learning_curve(steps, values / 100).items():
        for key, value in fit.items():
            scale = 1 if (name, key) == ("power_law", "c") else 100
            assert value * scale == pytest.approx(expected[name][key], rel=1e-6), (name, key)


def test_points_without_an_ap_are_left_out():
    y = simulate(6)
    spoiled = np.concatenate([[np.nan, -1.0], y, [3.0, -1.0]])
    steps = np.concatenate([[100, 200], STEPS, [0, 95_000]])
    assert fit_learning_curve(steps, spoiled) == fit_learning_curve(STEPS, y)
    assert forecast_ap(steps, spoiled, 375_000, highest=100)["history"]["left_out"] == [0, 100, 200, 95_000]


def test_delta_interval_is_the_textbooks():
    y = simulate(7)
    fits = fit_learning_curve(STEPS, y)
    quantile = t.ppf(0.975, 34)
    line, at = linregress(np.log(STEPS), y), np.log(375_000)
    x, middle = np.log(STEPS), line.intercept + line.slope * at
    noise = math.sqrt(((y - line.intercept - line.slope * x) ** 2).sum() / 34)
    half = quantile * noise * math.sqrt(1 + 1 / 36 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    actual = delta_interval("logarithmic", fits["logarithmic"], STEPS, y, [375_000])
    assert actual == pytest.approx(np.array([[middle - half, middle + half]]), rel=1e-9)

    fit = fits["power_law"]
    parameters, covariance = curve_fit(power_law, STEPS, y, p0=[fit[key] for key in "abc"], x_scale=[10, 1e3, 0.1],
                                       method="trf", xtol=1e-15, ftol=1e-15)  # fmt: skip
    a, b, c = parameters
    variance = ((y - power_law(STEPS, a, b, c)) ** 2).sum() / 33
    power = 375_000**-c
    gradient = np.array([1, -power, b * power * np.log(375_000)])
    half = t.ppf(0.975, 33) * math.sqrt(variance + gradient @ covariance @ gradient)
    low, high = delta_interval("power_law", fit, STEPS, y, [375_000])[0]
    assert [low, high] == pytest.approx(
        [power_law(375_000, a, b, c) - half, power_law(375_000, a, b, c) + half], rel=1e-4
    )


@pytest.mark.parametrize("name", ["power_law", "log_linear"])
def test_intervals_hold_what_is_measured_later(name):
    """95 of 100 times, of histories with independent noise; 150 draws leave 3.5 % of doubt (two deviations)."""
    parameters = {"a": A, "b": B, "c": C} if name == "power_law" else {"a": 9.0, "b": 3e-5, "c": -50.0}
    truth, last = curve(name, parameters, STEPS), curve(name, parameters, 180_000)
    held = {"delta": 0, "bootstrap": 0}
    for seed in range(150):
        generator = np.random.default_rng(seed)
        y, measured = truth + generator.normal(0, 0.25, 36), last + generator.normal(0, 0.25)
        fit = fit_learning_curve(STEPS, y)[name]
        low, high = delta_interval(name, fit, STEPS, y, [180_000])[0]
        held["delta"] += low <= measured <= high
        low, high = bootstrap_interval(name, fit, STEPS, y, 180_000)
        held["bootstrap"] += low <= measured <= high
    assert 0.90 < held["delta"] / 150 < 0.99
    assert 0.85 < held["bootstrap"] / 150 < 0.99


def test_the_best_is_who_foretold_the_second_half():
    y = simulate(8, jump=0)
    result = forecast_ap(STEPS, y, 375_000, highest=100)
    assert result["best"] == "power_law"
    early = fit_learning_curve(STEPS[:18], y[:18])
    for name, fit in early.items():
        expected = math.sqrt(((curve(name, fit, STEPS[18:]) - y[18:]) ** 2).mean())
        assert result["backtest"][name] == pytest.approx(expected, rel=1e-9)
    assert (result["backtest"]["points"], result["backtest"]["last_step"]) == (18, 45_000)

    logarithm = 10 * np.log(STEPS) - 60 + np.random.default_rng(0).normal(0, 0.1, 36)
    assert forecast_ap(STEPS, logarithm, 100_000, highest=100)["best"] == "logarithmic"


def test_the_verdict_says_how_far_to_believe():
    y = simulate(9, jump=0)
    assert "to be believed about as far as that" in forecast_ap(STEPS, y, 150_000, highest=100)["verdict"]
    assert "a rough guide, for it looks 4.2 times as far" in forecast_ap(STEPS, y, 375_000, highest=100)["verdict"]
    late = np.where(STEPS < 45_000, STEPS / 45_000, 30 + STEPS / 9000)
    assert forecast_ap(STEPS, late, 100_000, highest=100)["verdict"].endswith(": not to be believed.")
    over = 10 * np.log(STEPS) - 60
    assert "AP is within 0 and 100" in forecast_ap(STEPS, over, 10**8, highest=100)["verdict"]


def test_a_power_law_that_levels_off_nowhere_is_named():
    straight = forecast_ap(STEPS, STEPS / 2000, 100_000, highest=100)
    assert "c is at the end of its range, 0.01: the points do not level off yet" in format_forecast(straight)
    assert "end of its range" not in format_forecast(forecast_ap(STEPS, simulate(14), 100_000, highest=100))


def test_points_before_the_drop_alone():
    y = simulate(10, jump=3.0)
    result = forecast_ap(STEPS, y, 375_000, drop=82_500, highest=100)
    before = result["power_law_before_drop"]
    assert set(before) == {"drop", "points", "a", "b", "c", "rmse", "forecast"}
    assert (before["drop"], before["points"]) == (82_500, 33)
    fit = fit_learning_curve(STEPS[:33], y[:33])["power_law"]
    assert {key: before[key] for key in fit} == fit
    assert before["forecast"] == curve("power_law", fit, 375_000)
    # a jump at the end looks like a curve that does not level off
    assert abs(before["forecast"] - 54.54) < 1 < result["forecast"]["power_law"] - 54.54
    for drop in (None, 90_000, 10_000):  # none, none evaluated after it, too few before it
        assert forecast_ap(STEPS, y, 375_000, drop=drop, highest=100)["power_law_before_drop"] is None


@pytest.mark.parametrize(
    ("steps", "values", "message"),
    [
        (STEPS[:5], simulate(0)[:5], "5 evaluations with an AP are too few: a forecast needs 6"),
        (STEPS, np.full(36, -1.0), "0 evaluations with an AP are too few"),
        (STEPS, np.full(36, 12.5), "AP is 12.5 at every step"),
        (STEPS, np.zeros(36), "AP is 0 at every step"),
        (STEPS, simulate(0)[::-1], "AP does not rise"),
        (STEPS, simulate(0) / 100, "AP has not risen above 1 yet"),
        (STEPS, simulate(0) * 2, "but can be 100 at most"),
        (STEPS, simulate(0)[:-1], "two lists of one length"),
    ],
)
def test_what_cannot_be_forecast_is_refused(steps, values, message):
    with pytest.raises(ValueError, match=message) as refusal:
        forecast_ap(steps, values, 375_000, highest=100)
    assert "\n" not in str(refusal.value)


def write_csv(path, rows, header=("Step", "bbox/AP", "bbox/APl"), encoding="utf-8-sig"):
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def test_a_trackers_csv(tmp_path, capsys):
    """Quoted, with a mark at its beginning, further columns, empty cells between evaluations, NaN and -1."""
    y = simulate(11)
    rows = [row for step, value in zip(STEPS, y) for row in ((step - 20, "", ""), (int(step), value, value + 5))]
    rows += [(92_500, "NaN", "NaN"), (95_000, -1, -1)]
    path = write_csv(tmp_path / "history.csv", rows)
    output, plot = tmp_path / "new" / "forecast.json", tmp_path / "new" / "forecast.png"
    main(["forecast", str(path), "--step", "375000", "--output", str(output), "--plot", str(plot), "--drop", "82500"])
    result, text = json.loads(output.read_text()), capsys.readouterr().out
    fits = fit_learning_curve(STEPS, y)
    assert result["fits"] == fits  # of every point, in the file's unit
    assert {name: set(fit) for name, fit in result["fits"].items()} == {
        "power_law": {"a", "b", "c", "rmse"},
        "logarithmic": {"a", "b", "rmse"},
        "log_linear": {"a", "b", "c", "rmse"},
    }
    assert set(result["forecast"]) == {"step", "power_law", "logarithmic", "log_linear"}
    assert result["forecast"]["step"] == 375_000
    assert result["forecast"]["power_law"] == pytest.approx(power_law(375_000, *search_exponent(STEPS, y)), abs=1e-4)
    assert result["best"] == "power_law"
    assert set(result["intervals"]["power_law"]) == {"delta", "bootstrap"}
    assert result["power_law_before_drop"]["points"] == 33
    assert result["history"]["left_out"] == [92_500, 95_000]
    assert "steps 92,500, 95,000" in text and f"{result['forecast']['power_law']:.2f}" in text
    assert "before the drop" in text and result["verdict"] in text
    pixels = np.asarray(Image.open(plot).convert("HSV"))
    assert (pixels[..., 1] > 128).mean() > 0.002  # coloured curves

    for option, file in (("--output", output), ("--plot", plot)):
        kept = file.read_bytes()
        with pytest.raises(SystemExit, match=f"exists; choose another {option}"):
            main(["forecast", str(path), option, str(file)])
        assert file.read_bytes() == kept


def test_csv_columns(tmp_path):
    rows = [(step, value, 0) for step, value in zip(STEPS, simulate(12))]
    named = write_csv(tmp_path / "named.csv", rows, ("Step", "run 7 - bbox/AP", "run 7 - bbox/AP__MIN"), "utf-8")
    assert read_ap_history(named).values == [value for _, value, _ in rows]
    assert (read_ap_history(named).highest, read_ap_history(named).step_to_forecast()) == (100, 360_000)
    shares = write_csv(tmp_path / "shares.csv", [(step, value / 100) for step, value, _ in rows], ("Step", "bbox/AP"))
    assert read_ap_history(shares).highest == 1
    for header, message in (
        (("step", "bbox/AP", "x"), "needs the columns Step and bbox/AP; it has step, bbox/AP, x"),
        (("Step", "segm/AP", "x"), "needs the columns Step and bbox/AP"),
        (("Step", "one - bbox/AP", "two - bbox/AP"), "several runs, one - bbox/AP, two - bbox/AP"),
    ):
        with pytest.raises(ValueError, match=message):
            read_ap_history(write_csv(tmp_path / "wrong.csv", rows, header))
    with pytest.raises(ValueError, match=r"wrong\.csv, line 3: bbox/AP is 'n/a', not a number"):
        read_ap_history(write_csv(tmp_path / "wrong.csv", [(1, 2.0, 0), (2, "n/a", 0)]))
    with pytest.raises(ValueError, match=r"wrong\.csv has no AP"):
        read_ap_history(write_csv(tmp_path / "wrong.csv", [(1, "", 0)]))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="it has none"):
        read_ap_history(tmp_path / "empty.csv")


@pytest.fixture
def run_folder(tmp_path):
    """After 90,000 of 375,000 steps, killed while it wrote; AP in 0..1; the rate dropped after step 82,500."""
    entries = [{"step": int(s), "epoch": s / 7500, "AP": v / 100} for s, v in zip(STEPS, simulate(13))]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 92500, "AP'
    (tmp_path / "evaluation.jsonl").write_text(lines)
    rates = [{"step": s, "loss": 1.0, "learning_rate": 1e-4 if s <= 82_500 else 1e-5} for s in range(20, 90_001, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(rate) + "\n" for rate in rates))
    (tmp_path / "recipe.yaml").write_text("max_steps: 375000\n")
    return tmp_path


def test_a_run_folder(run_folder, capsys):
    """Its own unit, its own drop, and the step it goes to; its evaluation.jsonl says the same."""
    main(["forecast", str(run_folder), "--output", str(run_folder / "forecast.json")])
    result, text = json.loads((run_folder / "forecast.json").read_text()), capsys.readouterr().out
    assert result["forecast"]["step"] == 375_000 and result["history"]["drop"] == 82_500
    a, b, c = search_exponent(STEPS, simulate(13))
    assert result["forecast"]["power_law"] == pytest.approx(power_law(375_000, a, b, c) / 100, abs=1e-6)
    assert result["power_law_before_drop"]["points"] == 33
    low, high = result["intervals"]["power_law"]["bootstrap"]
    assert 0 < low < result["forecast"]["power_law"] < high < 1
    main(["forecast", str(run_folder / "evaluation.jsonl")])
    assert capsys.readouterr().out == text
    (run_folder / "recipe.yaml").write_text("max_steps: 90000\n")  # it is over
    assert read_ap_history(run_folder).step_to_forecast() == 360_000
    (run_folder / "evaluation.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"no .*evaluation\.jsonl: give a run folder that has been evaluated"):
        main(["forecast", str(run_folder)])


def rates_of(schedule, interval, steps):
    """`metrics.jsonl` of a schedule: a line has the rate of the step that led to it."""
    return [
        {"step": step, "learning_rate": 1e-3 * schedule.lr_lambdas[0](step - 1)}
        for step in range(interval, steps + 1, interval)
    ]


def test_drops_of_the_learning_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    for interval, found in ((20, [700, 900]), (10, [700, 900]), (30, [690, 900]), (1, [700, 900])):
        schedule = build_step_schedule(optimizer, 1000, [0.7, 900], warmup_steps=100)
        assert [line["step"] for line in learning_rate_drops(rates_of(schedule, interval, 1000))] == found
    falling = [{"step": step, "learning_rate": rate} for step, rate in enumerate([1, 1, 1, 0.4, 0.1, 0.01])]
    assert learning_rate_drops(falling) == []  # it does not stay where it fell to
    for build in (get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup):
        for interval in (1, 20, 100, 250):
            schedule = build(optimizer, num_warmup_steps=50, num_training_steps=1000)
            assert learning_rate_drops(rates_of(schedule, interval, 1000)) == []
