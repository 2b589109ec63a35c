"""The rules of the house, read from the source itself: who may import whom, what may be called, how long a file is.

Every rule is also tried on a few lines that break it, so that a rule that sees nothing is noticed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("retrieval", "rerank", "indexes")
TOP_LEVEL = {"pyproject.toml", "README.md", "scripts", "tests", *PACKAGES}
ALLOWED_IMPORTS = {
    "scripts": {"scripts", *PACKAGES},
    "retrieval": set(PACKAGES),
    "rerank": {"rerank"},
    "indexes": {"indexes"},
}
OURS = {"scripts", "tests", *PACKAGES}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
# Each of these runs code that comes with the data.
CODE_IN_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load": "loads pickles; use safetensors",
    "pandas.read_pickle": "loads pickles; use parquet",
    "os.fork": "a forked child hangs after a FAISS search; spawn",
}
INDEX_FILE_CALLS = {"faiss.read_index", "faiss.write_index"}


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts
    )


def program_files() -> list[Path]:
    return python_files("scripts", *PACKAGES)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(tree: ast.AST, path: Path) -> Iterator[str]:
    """Every imported module by its full name, relative imports resolved, wherever in the file they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = list(path.relative_to(ROOT).parent.parts)
            base = package[: len(package) - node.level + 1]
            yield ".".join([*base, node.module or ""]).strip(".") or "?"
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def import_breaches(source: str, path: Path) -> list[str]:
    home = path.relative_to(ROOT).parts[0]
    return [
        f"{name_of(path)} imports {module}"
        for module in imported_modules(ast.parse(source), path)
        if (top := module.split(".")[0]) in OURS and top not in ALLOWED_IMPORTS[home]
    ]


def aliases(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `import numpy as np` gives np -> numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.load` as `numpy.load`; empty for what is no plain dotted name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def danger_breaches(source: str, path: Path) -> list[str]:
    tree = ast.parse(source)
    names = aliases(tree)
    where = name_of(path)
    found = [
        f"{where} imports {module}: it runs code that comes with the data"
        for module in imported_modules(tree, path)
        if module.split(".")[0] in CODE_IN_DATA
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == "KMP_DUPLICATE_LIB_OK":
            found.append(f"{where}:{node.lineno} sets KMP_DUPLICATE_LIB_OK: results may be silently wrong")
        if isinstance(node, ast.Attribute | ast.Name):
            called = dotted(node, names)
            if called in FORBIDDEN_CALLS:
                found.append(f"{where}:{node.lineno} {called}: {FORBIDDEN_CALLS[called]}")
            if called in INDEX_FILE_CALLS and not where.startswith("indexes/"):
                found.append(f"{where}:{node.lineno} {called}: only indexes/ may, with its checks")
        if isinstance(node, ast.Call):
            found += [f"{where}:{node.lineno} {fault}" for fault in argument_faults(node)]
    return found


def argument_faults(call: ast.Call) -> list[str]:
    """Arguments that switch a safeguard off; anything but a plain False counts as on."""
    faults = [
        f"{word.arg}={ast.unparse(word.value)}"
        for word in call.keywords
        if word.arg in ("allow_pickle", "trust_remote_code")
        and not (isinstance(word.value, ast.Constant) and word.value.value is False)
    ]
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    if name in ("get_context", "set_start_method") and isinstance(first, ast.Constant) and first.value != "spawn":
        faults.append(f"{name}({first.value!r}): processes are spawned, never forked")
    return faults


def functions_of(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def undocumented(source: str, path: Path) -> list[str]:
    """The file itself, and its public functions and classes, where they lack a docstring."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) or not tree.body else [f"{name_of(path)} opens with no sentence"]
    for node in tree.body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ):
            missing.append(f"{name_of(path)}:{node.lineno} {node.name}")
    return missing


def test_imports_go_one_way():
    breaches = [breach for path in program_files() for breach in import_breaches(path.read_text(), path)]
    assert breaches == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("indexes/exact.py", "import retrieval.text"),
        ("indexes/exact.py", "def f():\n    from rerank.model import Reranker"),
        ("rerank/model.py", "from indexes import hits"),
        ("rerank/deep/model.py", "from ...indexes import hits"),
        ("rerank/model.py", "from retrieval import text"),
        ("retrieval/text.py", "import scripts.bench_index"),
        ("retrieval/text.py", "from tests.tiny import tiny_bert"),
    ],
)
def test_an_import_the_wrong_way_is_seen(file, source):
    assert len(import_breaches(source, ROOT / file)) == 1


def test_imports_the_right_way_are_let_through():
    assert import_breaches("from retrieval import Recommender\nimport indexes.hits", ROOT / "scripts/x.py") == []
    assert import_breaches("from rerank import model\nfrom indexes.hits import Hits", ROOT / "retrieval/x.py") == []
    assert import_breaches("from .hits import Hits\nimport numpy", ROOT / "indexes/x.py") == []


def test_nothing_runs_code_that_comes_with_the_data():
    breaches = [breach for path in program_files() for breach in danger_breaches(path.read_text(), path)]
    assert breaches == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "from torch import load\nload('x')",
        "import torch as t\nf = t.load",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "import faiss\nfaiss.read_index('x')",
        "from faiss import write_index\nwrite_index(i, 'x')",
        "import pandas as pd\npd.read_pickle('x')",
        "os.environ['KMP_DUPLICATE_LIB_OK'] = '1'",
        "multiprocessing.get_context('fork')",
    ],
)
def test_a_dangerous_line_is_seen(source):
    assert danger_breaches(source, ROOT / "retrieval/x.py")


def test_index_files_are_read_in_indexes_only():
    source = "import faiss\nfaiss.read_index('x')\nnp.load('y', allow_pickle=False)\nget_context('spawn')"
    assert danger_breaches(source, ROOT / "indexes/storage.py") == []


def test_the_top_level_is_fixed():
    shown = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if shown.returncode != 0:
        pytest.skip("no git here to say which files belong to the house")
    top = {line.split("/")[0].strip('"') for line in shown.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} - TOP_LEVEL == set()


def test_files_and_functions_are_short():
    too_long = []
    for path in python_files("tests", "scripts", *PACKAGES):
        source = path.read_text()
        n_lines = len(source.splitlines())
        if n_lines >= MAX_FILE_LINES:
            too_long.append(f"{name_of(path)}: {n_lines} lines")
        for function in functions_of(ast.parse(source)):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length >= MAX_FUNCTION_LINES:
                too_long.append(f"{name_of(path)}:{function.lineno} {function.name}: {length} lines")
    assert too_long == []


def test_public_things_say_what_they_are():
    assert [line for path in program_files() for line in undocumented(path.read_text(), path)] == []


def test_a_missing_sentence_is_seen():
    source = 'def search():\n    pass\nclass Hits:\n    "Rows."\ndef _own():\n    pass'
    assert undocumented(source, ROOT / "indexes/x.py") == [
        "indexes/x.py opens with no sentence",
        "indexes/x.py:1 search",
    ]


def test_a_thread_that_crashes_fails_its_test(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import threading\n\ndef test_it():\n"
        "    thread = threading.Thread(target=lambda: 1 / 0)\n    thread.start()\n    thread.join()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout
    assert "PytestUnhandledThreadExceptionWarning" in result.stdout


@pytest.mark.parametrize("name", ["scripts/demo", "scripts/test", "scripts/environment.sh", ".ci/run"])
def test_shell_scripts_are_runnable_and_stop_at_the_first_error(name):
    script = ROOT / name
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in script.read_text()
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert checked.stderr == ""


def test_every_direct_requirement_is_pinned_to_a_version_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "scripts/constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    by_name = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    faults = []
    for requirement in (Requirement(text) for requirements in lists for text in requirements):
        pin = by_name.get(requirement.name.lower().replace("_", "-"))
        if requirement.name != project["name"] and (pin is None or pin not in requirement.specifier):
            faults.append(f"{requirement}: constraints.txt has {pin}")
    assert faults == []
