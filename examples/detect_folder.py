"""
Detect in every image of a folder, in Python, and write what was found:

    python examples/detect_folder.py runs/quickstart folder_of_images detections.json

The first argument is a run folder or a detector on the Hub.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForObjectDetection

import dino_detr  # noqa: F401 (makes the model known to transformers; without it: trust_remote_code=True)

checkpoint, folder, output = sys.argv[1:]
if Path(output).exists():
    sys.exit(f"{output} exists; choose another")
device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForObjectDetection.from_pretrained(checkpoint).eval().to(device)
processor = AutoImageProcessor.from_pretrained(checkpoint)

found = {}
for path in sorted(Path(folder).iterdir()):
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        continue
    # one by one: images of different sizes in a batch would be padded, and see one another's padding
    image = ImageOps.exif_transpose(Image.open(path))  # upright, as the boxes will be
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt").to(device))
    sizes = [(image.height, image.width)]
    (result,) = processor.post_process_object_detection(outputs, threshold=0.5, target_sizes=sizes)
    found[path.name] = [
        {"label": model.config.id2label[label], "score": round(score, 4), "box": [round(value, 1) for value in box]}
        for score, label, box in zip(*(result[name].tolist() for name in ("scores", "labels", "boxes")))
    ]
    print(f"{path.name}: {len(found[path.name])} objects")

Path(output).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
