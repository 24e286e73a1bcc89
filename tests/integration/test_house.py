"""How the package is kept readable: limits of files and functions, plain conditionals, a test file for each module."""

import ast
import io
import re
import tokenize

import pytest
from helpers.launching import ROOT

MODULES = sorted((ROOT / "dino_detr").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]

LINES_OF_A_FILE = 400
LINES_OF_THE_TRAINER = 250
LINES_OF_A_FUNCTION = 60  # of code: without its docstring, comments and blank lines
LINES_OF_A_SCREEN = 50
ON_ONE_SCREEN = {"DinoDetrModel.forward", "DinoDetrForObjectDetection.forward"}


def lines_of_code(source: str, function: ast.FunctionDef | ast.AsyncFunctionDef, body_only: bool = False) -> int:
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        for line in range(token.start[0], token.end[0] + 1)
    }
    first = function.body[0]
    if ast.get_docstring(function):
        lines -= set(range(first.lineno, first.end_lineno + 1))
    start = first.lineno if body_only else function.lineno
    return len(lines & set(range(start, function.end_lineno + 1)))


def functions(tree: ast.AST, prefix: str = ""):
    """(qualified name, node) of every function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    limit = LINES_OF_THE_TRAINER if path.name == "trainer.py" else LINES_OF_A_FILE
    assert source.count("\n") <= limit
    for name, function in functions(TREES[path]):
        assert lines_of_code(source, function) <= LINES_OF_A_FUNCTION, name
        if name in ON_ONE_SCREEN:
            assert lines_of_code(source, function, body_only=True) <= LINES_OF_A_SCREEN, name


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_conditional_expression_is_inside_another(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.IfExp):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.IfExp) and n is not node]
            assert not inner, f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_public_docstrings_stand_alone(path):
    """Their first line ends in a full stop, and does not begin in the middle of a sentence."""
    nodes = [("module", TREES[path]), *functions(TREES[path])]
    nodes += [(node.name, node) for node in ast.walk(TREES[path]) if isinstance(node, ast.ClassDef)]
    for name, node in nodes:
        docstring = ast.get_docstring(node)
        if docstring and not name.split(".")[-1].startswith("_"):
            first = docstring.splitlines()[0]
            assert not re.match(r"(Of|That|As|With|For|By|In|On|To|Also|Like|From|After)\b", first), name


def test_every_module_has_tests_of_its_name():
    """Or a line in tests/README.md that says where it is tested."""
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \| (.*) \|$", table, flags=re.M)
    elsewhere = {name for modules, _ in rows for name in re.findall(r"`(.*?)`", modules)}
    names = {name.removeprefix("dino_detr/").removesuffix(".py") for name in NAMES}
    names = {name for name in names if name.split("/")[-1] not in ("__init__", "__main__")}
    missing = {name for name in names if name.split("/")[-1] not in tested} - elsewhere
    assert not missing
    assert elsewhere <= names, "modules that are gone"
    files = {file for _, where in rows for file in re.findall(r"`(\S+\.py)`", where)}
    assert [file for file in sorted(files) if not (ROOT / "tests" / file).is_file()] == []
