"""
Change one thing at a time in a module and see whether the tests notice.

    PYTHONPATH=.:tests python -m helpers.mutate dino_detr/loss.py --tests tests/model/test_loss.py --most 40

Every mutant is a copy of the package in which one operator, number, condition, statement or order of arguments of the
module is another one. The tests run on each, in a process of its own, until the first fails or the time is over. What
survives is printed: a number the tests do not look at, or code that does nothing.

Which mutants are tried is drawn from `--seed`, so that two runs try the same. `--line` picks those of some lines, to
see again whether a new test kills a survivor.
"""

import argparse
import ast
import copy
import importlib
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PRELOADED = ("numpy", "torch", "torchvision", "transformers", "transformers.modeling_utils", "pytest")  # slow to import

SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Mutant(NamedTuple):
    line: int
    change: str
    source: str


def find_mutants(source: str) -> list[Mutant]:
    """All mutants of a module that differ from it."""
    tree = ast.parse(source)
    original = ast.unparse(tree)
    places = [(parent, field, index) for parent, field, index in _places(tree)]
    mutants = []
    for number, (parent, field, index) in enumerate(places):
        node = _get(parent, field, index)
        for changed in _changes(node):
            other = copy.deepcopy(tree)
            _set(*list(_places(other))[number], changed)
            text = ast.unparse(ast.fix_missing_locations(other))
            if text != original:
                change = f"{_short(node)}  ->  {_short(changed)}"
                mutants.append(Mutant(node.lineno, change, text))
    return mutants


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where statements and expressions stand in the tree, but for annotations, decorators and docstrings."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or _is_docstring(child):
                continue
            if isinstance(child, (ast.expr, ast.stmt)):
                yield tree, field, index if isinstance(value, list) else None
            yield from _places(child)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _get(parent: ast.AST, field: str, index: int | None) -> ast.AST:
    value = getattr(parent, field)
    return value if index is None else value[index]


def _set(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (ast.copy_location(ast.Constant(node.value + by), node) for by in (1, -1))
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.copy_location(ast.Constant(not node.value), node)
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPPED:
        yield _with(node, op=SWAPPED[type(node.op)]())
    elif isinstance(node, ast.Compare):
        yield _with(node, ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Call) and len(node.args) > 1 and not isinstance(node.args[1], ast.Starred):
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    elif isinstance(node, (ast.Expr, ast.AugAssign, ast.Raise)) or _changes_a_name(node):
        yield ast.copy_location(ast.Pass(), node)


def _changes_a_name(node: ast.AST) -> bool:
    """Whether a statement gives a new value to a name it reads, so that without it the old value stays."""
    if not isinstance(node, ast.Assign):
        return False
    written = {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return written <= {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) < 70 else text[:67] + "..."


def run_tests(package: Path, tests: list[str], limit: float) -> str:
    """Run the tests in a copy of this process that imports the package from a folder: `killed`, `survived`, `late`."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        sys.path.insert(0, str(package))
        spec = importlib.util.find_spec("dino_detr")
        if spec is None or package not in Path(str(spec.origin)).parents:
            os._exit(99)
        import pytest

        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *tests]))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2):  # a test failed, or what is collected could not be imported
                raise SystemExit(f"the tests could not be run: exit status {code}")
            return "survived" if code == 0 else "killed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "late"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="file of the package, from the repository's root")
    parser.add_argument("--tests", nargs="+", required=True, help="files of tests, or single tests")
    parser.add_argument("--most", type=int, default=50, help="mutants that are tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--line", type=int, nargs="+", help="only mutants of these lines")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of one mutant")
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    mutants = find_mutants(Path(options.module).read_text())
    if options.line:
        mutants = [mutant for mutant in mutants if mutant.line in options.line]
    chosen = sorted(random.Random(options.seed).sample(mutants, min(options.most, len(mutants))))
    counts = {"killed": 0, "survived": 0, "late": 0}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("dino_detr", Path(folder, "dino_detr"), ignore=shutil.ignore_patterns("__pycache__"))
        if run_tests(Path(folder), options.tests, options.limit) != "survived":
            raise SystemExit("the tests fail, or are late, before anything is changed")
        for mutant in chosen:
            Path(folder, options.module).write_text(mutant.source)
            fate = run_tests(Path(folder), options.tests, options.limit)
            counts[fate] += 1
            if fate == "survived":
                print(f"{options.module}:{mutant.line}: {mutant.change}", flush=True)
    print(f"{len(chosen)} of {len(mutants)} mutants: " + ", ".join(f"{n} {fate}" for fate, n in counts.items()))


if __name__ == "__main__":
    main()
