"""What is said of uneven classes and sizes, counted one by one."""

import random
from collections import Counter

from datasets import ClassLabel, Dataset, Features, List, Value

from dino_detr.data.balance import describe_balance

NAMES = ["common", "seldom", "never", "usual"]
OBJECTS = {
    "bbox": List(List(Value("float32"))),
    "category": List(ClassLabel(names=NAMES)),
    "iscrowd": List(Value("int64")),
}


def rows_of(objects):
    features = Features({"objects": OBJECTS, "width": Value("int64"), "height": Value("int64")})
    values = {"objects": objects, "width": [640] * len(objects), "height": [480] * len(objects)}
    return Dataset.from_dict(values, features=features)


def test_counts_shares_and_advice():
    random.seed(0)
    objects, images, boxes, sizes = [], Counter(), Counter(), Counter()
    for index in range(300):
        names = random.choices(["common", "usual"], [3, 1], k=random.randint(0, 5)) + ["seldom"] * (index in (5, 7))
        sides = [random.choice([(20, 30), (40, 60), (200, 100)]) for _ in names]
        objects.append(
            {
                "bbox": [[1.0, 2.0, *map(float, side)] for side in sides],
                "category": [NAMES.index(name) for name in names],
                "iscrowd": [0] * len(names),
            }
        )
        images.update(set(names))
        boxes.update(names)
        sizes.update(sides)
    text = describe_balance(rows_of(objects))
    for name in ("seldom", "usual", "common"):
        assert f"{images[name]:>7,}  {boxes[name]:>8,}  {name}" in text
    assert text.index("never") < text.index("seldom") < text.index("usual") < text.index("common")
    assert "without any box: never; nothing of them is learned" in text
    median = (images["seldom"] + images["usual"]) / 2
    assert images["seldom"] < 0.1 * median
    assert f"rare: seldom; --repeat_factor {median / 300:.2g} shows" in text
    small, medium, large = (f"{sizes[side] / sizes.total():.0%}" for side in ((20, 30), (40, 60), (200, 100)))
    assert f"{small} small, {medium} medium, {large} large" in text and "most are small" not in text


def test_even_data_gets_no_advice_and_small_boxes_some():
    one = {"bbox": [[0.0, 0.0, 9.0, 9.0]] * 3, "category": [0, 1, 3], "iscrowd": [0] * 3}
    text = describe_balance(rows_of([one] * 4))
    assert "rare" not in text.replace("rarest first", "") and "most are small: larger --image_sizes" in text
    nothing = {"bbox": [], "category": [], "iscrowd": []}
    assert describe_balance(rows_of([nothing, nothing])) == "  no boxes"
