"""A large image in overlapping tiles, for its small objects."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

MERGE_IOU = 0.5  # of two boxes of one class that are one object
SMALLEST_TILE = 16  # pixels
_CUT = 0.01  # of a tile's side: a box that ends so near to an inner border goes on beyond it

Found = tuple[Tensor, Tensor, Tensor]  # scores [n], labels [n], boxes [n, 4] xyxy px, best first


def check_tiles(tiles: int | None, overlap: float) -> None:
    """
    Check the size and the overlap of tiles.

    Raises:
        ValueError: if they are none.
    """
    if tiles is not None and tiles < SMALLEST_TILE:
        raise ValueError(f"tiles {tiles}: the side of a tile, at least {SMALLEST_TILE} pixels")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap}: a share of a tile's side, 0 or more and less than 1")


def place_tiles(height: int, width: int, tiles: int | None, overlap: float) -> list[tuple[int, int, int, int]]:
    """
    Return the whole image and, if it is larger than a tile, the tiles that cover it: x1, y1, x2, y2 of each in pixels.

    Args:
        tiles: side of a tile in pixels; None: no tiles.
        overlap: of neighbours, as a share of the side; those at the right and bottom overlap more.
    """
    whole = 0, 0, width, height
    if tiles is None or max(height, width) <= tiles:
        return [whole]
    starts = [[*range(0, side - tiles, max(1, round(tiles * (1 - overlap)))), max(side - tiles, 0)]
              for side in (height, width)]  # fmt: skip
    corners = [(x, y) for y in starts[0] for x in starts[1]]
    return [whole, *((x, y, min(x + tiles, width), min(y + tiles, height)) for x, y in corners)]


def merge_tiles(places: list[tuple[int, int, int, int]], found: list[Found]) -> Found:
    """
    Merge what was found in the whole image and in its tiles, in pixels of each, into detections of the image.

    A box that a tile's border cuts is left to the neighbour, or to the whole image. Of boxes of one class that overlap
    by an IoU above 0.5 the best is kept.

    Args:
        places: as `place_tiles` returns them.
        found: in each place.
    """
    if len(places) == 1:
        return found[0]
    _, _, width, height = places[0]
    kept = []
    for place, (scores, labels, boxes) in zip(places, found):
        x1, y1, x2, y2 = place
        boxes = boxes + torch.tensor([x1, y1, x1, y1])
        inner = torch.tensor([x1 > 0, y1 > 0, x2 < width, y2 < height])
        near = (boxes - torch.tensor(place)).abs() < _CUT * max(x2 - x1, y2 - y1)
        whole = ~(near & inner).any(1)
        kept.append((scores[whole], labels[whole], boxes[whole]))
    scores, labels, boxes = (torch.cat(columns) for columns in zip(*kept))
    best = batched_nms(boxes, scores, labels, MERGE_IOU)
    return scores[best], labels[best], boxes[best]
