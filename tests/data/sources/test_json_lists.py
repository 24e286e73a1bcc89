"""JSON read in pieces holds what Python's own reader finds in it as a whole."""

import json
import math
import random
from typing import Any

import pytest

from dino_detr.data.sources import json_lists
from dino_detr.data.sources.json_lists import JsonList, index_json

NESTED = {"id": 1, "parts": [{"a": 1}, {"b": [{}, {"c": "}, {"}]}], "text": 'a "}, {" b]', "deep": {"x": {"y": {}}}}
CONTENTS = {
    "plain": {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(40)], "info": {"year": 2017}},
    "nested": {"n": [NESTED | {"id": i} for i in range(30)], "after": [NESTED]},
    "text": {"a": [{"name": "Käse, 東京 \U0001f600 " * (i % 4)} for i in range(50)], "b": "}, {"},
    "not JSON": {"a": [{"x": math.inf, "y": -math.inf, "z": i} for i in range(40)]},
    "many digits": {"a": [{"id": 10 ** (i % 50)} for i in range(60)]},
    "numbers": {"a": list(range(300)), "b": [[1, [2]], "x", None, True, 1.5e-7], "c": 12345},
    "empty": {"a": [], "b": {}, "c": [{}], "d": [[]], "e": ""},
    "nothing": {},
}


def as_lists(content: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, JsonList) else value for name, value in content.items()}


@pytest.mark.parametrize("piece", [1, 60, 500, 2**23])
@pytest.mark.parametrize("form", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}], ids=str)
@pytest.mark.parametrize("name", CONTENTS)
def test_pieces_make_up_the_whole(tmp_path, monkeypatch, name, form, piece):
    monkeypatch.setattr(json_lists, "PIECE", piece)
    file = tmp_path / "file.json"
    file.write_text(json.dumps(CONTENTS[name], **form) + "\n", encoding="utf-8")
    content = index_json(file, {})
    assert as_lists(content) == CONTENTS[name]
    assert as_lists(content) == CONTENTS[name]  # again
    if name == "plain" and piece == 60:
        assert len(content["images"].spans) > 10


def test_a_byte_order_mark_is_none_of_it(tmp_path):
    (tmp_path / "file.json").write_bytes(b"\xef\xbb\xbf \n" + b'{"a": [{"b": 1}]} ')
    assert as_lists(index_json(tmp_path / "file.json", {})) == {"a": [{"b": 1}]}


@pytest.mark.parametrize("piece", [50, 2**23])
def test_what_is_damaged_is_no_content(tmp_path, monkeypatch, piece):
    """Cut anywhere, or with a byte changed: refused, or read as Python's reader reads it."""
    monkeypatch.setattr(json_lists, "PIECE", piece)
    text, file, refused = json.dumps(CONTENTS["nested"]).encode(), tmp_path / "file.json", 0
    for seed in range(300):
        rng = random.Random(seed)
        damaged = bytearray(text[: rng.randrange(len(text))] if seed % 2 else text)
        if seed % 4 == 0:
            damaged[rng.randrange(len(damaged))] = rng.choice(b'{}[]",: x1\xff')
        file.write_bytes(damaged)
        try:
            content = as_lists(index_json(file, {}))
        except ValueError:
            refused += 1
            continue
        assert content == json.loads(damaged)
    assert refused > 150


@pytest.mark.parametrize("text", ["[1]", "1", "", "{", '{"a": 1} {}', '{"a": 1, "a": 2}', '{"a": 1,}', "{1: 2}"])
def test_what_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError):
        index_json(tmp_path / "file.json", {})


def test_no_piece_is_large(tmp_path):
    """Of a file of 40 MB, none above 8."""
    entries = ", ".join(f'{{"id": {number}, "bbox": [1.5, 2, 3, 4], "area": 12}}' for number in range(800_000))
    (tmp_path / "file.json").write_text(f'{{"annotations": [{entries}]}}')
    spans = index_json(tmp_path / "file.json", {})["annotations"].spans
    assert 5 <= len(spans) <= 7
    assert max(end - start for start, end in spans) <= 2**23
