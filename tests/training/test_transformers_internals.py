"""What is leaned on in transformers and accelerate is there, in whichever version is installed."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from transformers import Trainer

from dino_detr.training import DetectionTrainer, transformers_internals
from dino_detr.training.transformers_internals import ATTRIBUTES, CALLED, NAMES, OVERRIDDEN

FOLDER = Path(transformers_internals.__file__).parent


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_the_trainer_still_calls_what_is_overridden(name):
    assert name in vars(DetectionTrainer), f"DetectionTrainer has no {name} of its own any more"
    assert name in vars(Trainer), f"transformers' Trainer has no {name} any more"
    assert re.search(rf"self\.{name}\b", inspect.getsource(Trainer)), (
        f"transformers' Trainer does not call {name} any more"
    )


@pytest.mark.parametrize("name", CALLED)
def test_the_trainer_still_has_what_is_called(name):
    assert name in vars(Trainer), f"transformers' Trainer has no {name} any more"


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_the_attribute_is_still_there(path):
    owner, name = path.rsplit(".", 1)
    module, class_name = owner.rsplit(".", 1)
    kind = getattr(import_module(module), class_name)
    written = any(f"self.{name} = " in inspect.getsource(base) for base in kind.__mro__[:-1])
    assert hasattr(kind, name) or written or name in getattr(kind, "__annotations__", {}), f"{owner} has no {name}"


@pytest.mark.parametrize("path", NAMES)
def test_the_name_is_still_there(path):
    module, name = path.rsplit(".", 1)
    assert hasattr(import_module(module), name), f"{module} has no {name} any more"


def test_the_list_is_complete():
    """Every private method of the Trainer that is overridden or touched stands in it."""
    private = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    touched = {
        node.attr
        for path in FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert private & set(vars(DetectionTrainer)) == {name for name in OVERRIDDEN if name.startswith("_")}
    assert private & touched <= {*OVERRIDDEN, *CALLED}
