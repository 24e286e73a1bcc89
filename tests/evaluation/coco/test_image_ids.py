"""Results of `predict` are scored against annotations that know images by id."""

import pytest

from dino_detr.evaluation.coco.image_ids import find_image_ids


def test_images_are_known_by_the_names_of_their_files():
    """Where a name is the same or ends alike, and is no id; two files for one image are refused."""
    images = [{"id": 7, "file_name": "a/x.jpg"}, {"id": 8, "file_name": "b/x.jpg"}, {"id": 9, "file_name": "y.jpg"}]
    images.append({"id": "z.jpg", "file_name": "y2.jpg"})
    named = ["a/x.jpg", "b/x.jpg", "photos/y.jpg", "z.jpg", "x.jpg", "none.jpg", 7]
    rows = find_image_ids([{"image_id": name} for name in named], {"images": images})
    assert [row["image_id"] for row in rows] == [7, 8, 9, "z.jpg", "x.jpg", "none.jpg", 7]
    folders = [{"image_id": f"/data/{name}/x.jpg"} for name in "ab"]  # a folder of folders was predicted
    assert [row["image_id"] for row in find_image_ids(folders, {"images": images})] == [7, 8]
    with pytest.raises(ValueError, match=r"photos/y\.jpg and y\.jpg are both taken for image 9"):
        find_image_ids([{"image_id": "photos/y.jpg"}, {"image_id": "y.jpg"}], {"images": images})
