"""One evaluation, of one process or several, that can be stopped."""

import contextlib
import json
import subprocess
import sys

import pytest
import torch
from helpers.launching import ENVIRONMENT
from helpers.tiny import tiny_detector

from dino_detr import DinoDetrImageProcessor
from dino_detr.data import load_detection_dataset
from dino_detr.evaluation.evaluate import EvaluationStopped, evaluate


@pytest.fixture
def scenes(data):
    processor = DinoDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return tiny_detector(num_labels=10), processor, load_detection_dataset(data, "val")


def test_figures_detections_and_truth_are_of_the_same_images(scenes):
    """The model's mode is what it was; the context is entered once, around the model."""
    entered = []

    @contextlib.contextmanager
    def context():
        entered.append(True)
        yield
        entered.append(False)

    model, processor, rows = scenes
    evaluation = evaluate(model.train(), processor, rows, batch_size=2, context=context())
    assert model.training and entered == [True, False]
    ids = set(rows["image_id"])
    assert {entry["image_id"] for entry in evaluation.detections} == ids
    assert {entry["image_id"] for entry in evaluation.truth} == ids
    assert evaluation.is_unexplained and "AP50" in str(evaluation.diagnose())


@pytest.mark.parametrize("after", [0, 3])
def test_an_evaluation_that_is_asked_to_stop_says_why(scenes, after):
    asked = []
    model, processor, rows = scenes
    with pytest.raises(EvaluationStopped) as stopped:
        evaluate(model, processor, rows, stop=lambda: asked.append(None) or 2 * (len(asked) > after))
    assert stopped.value.reason == 2 and model.training == tiny_detector().training


SEVERAL = """
import json, sys
import torch
from torch import distributed

from dino_detr import DinoDetrForObjectDetection, DinoDetrImageProcessor
from dino_detr.data import load_detection_dataset
from dino_detr.evaluation.evaluate import EvaluationStopped, evaluate

checkpoint, data, rank, store = sys.argv[1:]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
model = DinoDetrForObjectDetection.from_pretrained(checkpoint)
processor = DinoDetrImageProcessor.from_pretrained(checkpoint)
rows = load_detection_dataset(data, "val")
evaluation = evaluate(model, processor, rows)
try:
    evaluate(model, processor, rows, stop=lambda: int(rank))  # the second process alone is asked
    reason = None
except EvaluationStopped as stopped:
    reason = stopped.reason
print(json.dumps([evaluation.figures, len(evaluation.detections), len(evaluation.truth), reason]))
distributed.destroy_process_group()
"""


def test_two_processes_find_what_one_does_and_stop_together(scenes, data, tmp_path):
    model, processor, rows = scenes
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    torch.set_num_threads(1)
    figures = json.loads(json.dumps(evaluate(model, processor, rows).figures))
    arguments = [tmp_path / "checkpoint", data, None, tmp_path / "store"]
    processes = []
    for rank in range(2):
        arguments[2] = rank
        command = [sys.executable, "-c", SEVERAL, *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True))
    main, other = (json.loads(process.communicate()[0].splitlines()[-1]) for process in processes)
    assert main == [figures, len(rows), len(rows), 1]
    assert other == [figures, 0, 0, 1]
