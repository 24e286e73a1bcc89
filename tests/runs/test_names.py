"""The names of a run folder's files stand in one place."""

import ast
from pathlib import Path

import dino_detr
from dino_detr.runs import names

PACKAGE = Path(dino_detr.__file__).parent


def test_no_other_module_spells_the_name_of_a_file_of_a_run():
    files = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and "." in value}
    spelled = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != Path(names.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in files
    ]
    assert spelled == []


def test_a_checkpoint_is_told_from_a_copy_of_one(tmp_path):
    assert names.checkpoint_step(names.checkpoint_folder(tmp_path, 50)) == 50
    assert names.checkpoint_step(tmp_path / "checkpoint-50-copy") is None
    assert names.checkpoint_step(tmp_path / ".checkpoint-50.partial") is None
