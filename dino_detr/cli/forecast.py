"""`dino-detr forecast`: how AP goes on."""

import argparse

from ..outputs import claim_files, write_json


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = verbs.add_parser("forecast", help="how AP goes on: curves fitted to a run's history, and their intervals")
    verb.set_defaults(run=run)
    verb.add_argument("history", metavar="HISTORY", help="run folder, its evaluation.jsonl, or a CSV: Step, bbox/AP")
    verb.add_argument("--step", type=int, metavar="N", help="to forecast (default: the run's last, or 4 times what is)")
    verb.add_argument("--drop", type=int, metavar="STEP", help="at which the rate was dropped (default: the run's own)")
    verb.add_argument("--plot", metavar="FILE.png", help="draw points, curves and interval here")
    verb.add_argument("--output", metavar="FILE.json", help="write fits, forecasts and intervals here")


def run(options: argparse.Namespace) -> None:
    from ..evaluation.forecast import forecast_ap, format_forecast
    from ..evaluation.forecast.history import read_ap_history
    from ..evaluation.forecast.plot import draw_forecast

    claim_files(plot=options.plot, output=options.output)
    history = read_ap_history(options.history)
    step = history.step_to_forecast() if options.step is None else options.step
    drop = history.drop if options.drop is None else options.drop
    result = forecast_ap(history.steps, history.values, step, drop, history.highest)
    print(format_forecast(result))
    if options.plot:
        draw_forecast(result, options.plot)
    if options.output:
        write_json(options.output, result)
