"""Numbers, boxes and ids as annotation tools write them."""

import math

import pytest

from dino_detr.data.numbers import Ids, number_ids, read_box, read_flag, read_number, read_whole


@pytest.mark.parametrize(
    ("value", "whole", "number", "flag"),
    [
        (3, 3, 3, None),
        (1, 1, 1, 1),
        (0.0, 0, 0, 0),
        (1.5, None, 1.5, None),
        ("1", 1, 1, 1),
        ("000012", 12, 12, None),
        (" 1.0 ", 1, 1, 1),
        ("-2.50", None, -2.5, None),
        ("1_0", None, None, None),
        ("\u0661", None, None, None),  # an Arabic one, which int() would read
        ("", None, None, None),
        ("0x1", None, None, None),
        (True, None, None, 1),
        ("False", None, None, 0),
        (None, None, None, None),
        ([1], None, None, None),
        (2**63, None, 2.0**63, None),
        (str(2**63), None, 2.0**63, None),
        (-(2**63), -(2**63), -(2.0**63), None),
        (1e300, None, 1e300, None),
        ("1e3", 1000, 1000, None),
        (10**400, None, math.inf, None),
    ],
)
def test_what_is_a_number(value, whole, number, flag):
    assert (read_whole(value), read_number(value), read_flag(value)) == (whole, number, flag)


def test_what_is_a_box():
    assert read_box("[1, 2, 3.5, 4]") == read_box(["1", "2.0", 3.5, 4]) == [1, 2, 3.5, 4]
    for none in ("1,2,3,4", "[1, 2, 3]", [1, 2, 3, None], [1, 2, 3, "x"], [True, 1, 2, 3], {"x": 1}, None, "[" * 400):
        assert read_box(none) is None


def test_ids_that_are_text_are_numbers_unless_two_would_be_one():
    ids = Ids(["1", "02", "img_3"])
    assert [ids.read(value) for value in ("1", 1, "02", "2", "img_3", " ", None, 1.5, True)] == [
        1, 1, 2, 2, "img_3", None, None, None, None,
    ]  # fmt: skip
    names = Ids(["1", "01"])
    assert [names.read(value) for value in ("1", "01", 1)] == ["1", "01", 1]
    assert number_ids(["b", 7, "a"]) == {7: 7, "a": 8, "b": 9}
