"""Files are read and written as UTF-8 on every system: Windows has another encoding by default."""

import ast
from pathlib import Path

import pytest
from helpers.launching import ROOT

SOURCES = [ROOT / "train.py", *sorted((ROOT / "dino_detr").rglob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]


def calls_without_encoding(source: str) -> list[str]:
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        called = ast.unparse(call.func)
        if called != "open" and not called.endswith((".open", ".read_text", ".write_text", ".fdopen")):
            continue
        words = {keyword.arg: keyword.value for keyword in call.keywords}
        constants = [part.value for part in [*call.args, *words.values()] if isinstance(part, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value and len(value) <= 3 for value in constants)
        of_another_kind = called in ("Image.open", "PILImage.open", "os.open", "av.open")
        if "encoding" not in words and not binary and not of_another_kind:
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_have_an_encoding(path: Path):
    assert not calls_without_encoding(path.read_text(encoding="utf-8"))


def test_a_call_without_one_is_found():
    assert len(calls_without_encoding("open(x)\nPath(y).read_text()\nopen(x, 'w')\nz.write_text(a)\n")) == 4
    assert not calls_without_encoding("open(x, 'rb')\nopen(x, mode='xb')\nopen(x, encoding='utf-8')\nImage.open(x)\n")
