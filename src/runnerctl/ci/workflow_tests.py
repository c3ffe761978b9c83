"""What a repository's Python files tell: which tests carry ``gpu`` or use CUDA, who starts processes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["TestFacts", "read_tests", "selects"]

_CUDA = re.compile(r"^(torch\.cuda|cupy|numba\.cuda|pycuda|jax\.devices)(\.|$)")
_QUESTIONS = frozenset({"is_available", "device_count", "is_initialized"})
_PROCESSES = ("multiprocessing", "concurrent.futures", "torch.multiprocessing", "joblib", "billiard")
_PROCESS_WORD = re.compile(r"multiprocessing|concurrent\.futures|joblib|billiard")  # parsing takes its time
_GPU_WORD = re.compile(r"gpu|cuda|cupy|jax")
_MAX_NAMES = 8


@dataclass(frozen=True)
class TestFacts:
    """``marked``: files with a test that carries ``gpu``. ``unmarked``: (file, line, test, what it uses).

    ``registered``: a conftest registers the marker. ``processes``: (file, line) of the first import of
    something that starts processes, or None. ``files``: how many test files were read.
    """

    __test__ = False  # its name begins like a test's

    files: int = 0
    marked: tuple[str, ...] = ()
    unmarked: tuple[tuple[str, int, str, str], ...] = ()
    registered: bool = False
    processes: tuple[str, int] | None = None


def read_tests(files: Iterable[tuple[str, str]]) -> TestFacts:
    """Facts of ``(path, text)`` pairs; a file that is no Python is left out."""
    count = 0
    marked, unmarked, registered, processes = [], [], False, None
    for path, text in files:
        name = path.rsplit("/", 1)[-1]
        is_test = name.startswith("test_") or name.endswith("_test.py")
        count += is_test
        starts = processes is None and _PROCESS_WORD.search(text) is not None
        about_gpus = (is_test or name == "conftest.py") and _GPU_WORD.search(text) is not None
        tree = _parsed(text) if starts or about_gpus else None
        if tree is None:
            continue
        processes = processes or _process_import(path, tree)
        if name == "conftest.py":
            registered = registered or (
                "addinivalue_line" in text and re.search(r"['\"]gpu\b", text) is not None
            )
            marked += [path] if re.search(r"add_marker\(.*gpu", text) else []
        elif is_test:
            marked += [path] if _carries(tree) else []
            unmarked += list(_unmarked(path, tree))
    return TestFacts(count, tuple(marked), tuple(unmarked), registered, processes)


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _process_import(path: str, tree: ast.Module) -> tuple[str, int] | None:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        line = getattr(node, "lineno", 1)
        for name in names:
            if name.startswith("concurrent.futures") and name.endswith("ThreadPoolExecutor"):
                continue
            if any(name == each or name.startswith(each + ".") for each in _PROCESSES):
                return path, line
    return None


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _dotted(node.func)
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _is_gpu_mark(node: ast.expr) -> bool:
    return _dotted(node).endswith("mark.gpu")


def _carries(tree: ast.Module) -> bool:
    return any((isinstance(node, ast.Attribute) and _is_gpu_mark(node)) for node in ast.walk(tree))


def _module_is_marked(tree: ast.Module) -> bool:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(_dotted(target) == "pytestmark" for target in node.targets):
            return any(
                isinstance(each, ast.Attribute) and _is_gpu_mark(each) for each in ast.walk(node.value)
            )
    return False


def _unmarked(path: str, tree: ast.Module) -> Iterator[tuple[str, int, str, str]]:
    """Tests that use CUDA and neither carry the marker nor decide by themselves to be skipped."""
    if _module_is_marked(tree) or "skip" in ast.dump(ast.Module(_plain(tree), []))[:200_000]:
        return
    for test, marks in _tests(tree):
        texts = [ast.unparse(mark) for mark in marks]
        if any(_is_gpu_mark(mark) for mark in marks) or any(
            "gpu" in text or "cuda" in text for text in texts
        ):
            continue
        used = _uses_cuda(test)
        if used:
            yield path, test.lineno, test.name, used


def _plain(tree: ast.Module) -> list[ast.stmt]:
    """Module-level statements that are no definitions: where a module skips itself."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return [node for node in tree.body if not isinstance(node, kinds)]


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _tests(tree: ast.Module) -> Iterator[tuple[_Function, list[ast.expr]]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            for inner in node.body:
                if isinstance(inner, _Function) and inner.name.startswith("test"):
                    yield inner, [*node.decorator_list, *inner.decorator_list]
        elif isinstance(node, _Function) and node.name.startswith("test"):
            yield node, list(node.decorator_list)


def _uses_cuda(test: _Function) -> str:
    """What of CUDA a test uses; asking whether there is a GPU is no use, and such a test decides itself."""
    found = ""
    for node in ast.walk(test):
        if isinstance(node, ast.Attribute) and node.attr in _QUESTIONS and "cuda" in _dotted(node):
            return ""
        found = found or _cuda_of(node)
    return found


def _cuda_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        name = _dotted(node)
        return name if _CUDA.match(name) else ""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda" and not node.args:
        return ".cuda()"
    moved = isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "device")
    given = [keyword.value for keyword in node.keywords if keyword.arg == "device"] + (
        node.args if moved else []
    )
    texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((f'"{text}"' for text in texts if text.startswith("cuda")), "")


def selects(expression: str, *, gpu: bool) -> bool | None:
    """Whether ``pytest -m EXPRESSION`` can select a test with ``gpu`` (with False: one without).

    None for an expression that cannot be read.
    """
    plain = re.sub(r"\bgpu\([^)]*\)", "gpu", expression.strip())
    if not plain:
        return True
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"gpu"})
    if len(names) > _MAX_NAMES:
        return None
    results = []
    for bits in range(1 << len(names)):
        world = {name: bool(bits >> at & 1) for at, name in enumerate(names)} | {"gpu": gpu}
        results.append(_truth(tree.body, world))
    return None if None in results else any(results)


def _truth(node: ast.expr, world: dict[str, bool]) -> bool | None:
    if isinstance(node, ast.Name):
        return world[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _truth(node.operand, world)
        return None if inner is None else not inner
    if isinstance(node, ast.BoolOp):
        parts = [_truth(value, world) for value in node.values]
        if None in parts:
            return None
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    return None
