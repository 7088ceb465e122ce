"""The layout that the rest relies on."""

import importlib.util
import operator
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_operator_folder_is_no_package():
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_import_operator_is_the_standard_librarys():
    assert operator.itemgetter(1)("ab") == "b"
    assert importlib.util.find_spec("operator").origin == importlib.util.find_spec("os").origin.replace(
        "os.py", "operator.py"
    )


def test_import_operator_is_the_standard_librarys_with_the_root_on_the_path():
    code = "import sys; sys.path.insert(0, '.'); sys.modules.pop('operator', None); import operator; operator.itemgetter(0)"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT)


def test_no_file_is_called_utils():
    assert not [path for folder in ("operator", "runtime") for path in (ROOT / folder).rglob("util*.py")]
