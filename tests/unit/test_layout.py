"""The layout that the rest relies on."""

import operator
import subprocess
import sys
import sysconfig
import textwrap
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_operator_folder_is_no_package():
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_import_operator_is_the_standard_librarys():
    assert operator.itemgetter(1)("ab") == "b"
    assert Path(operator.__file__).parent == Path(sysconfig.get_path("stdlib"))


def test_import_operator_is_the_standard_librarys_with_the_root_on_the_path():
    code = """
    import sys
    sys.path.insert(0, ".")
    sys.modules.pop("operator", None)
    import operator
    operator.itemgetter(0)
    """
    subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(code)], check=True, cwd=ROOT)


def test_no_module_is_called_utils():
    python = [path for folder in ("operator", "runtime") for path in (ROOT / folder).rglob("*.py")]
    assert python
    assert not [path for path in python if path.stem in {"util", "utils", "helpers", "misc", "common"}]


def test_every_file_below_tests_has_a_name_of_its_own():
    """Pytest imports them by name alone, so two of one name stop the whole run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1] == ["conftest.py"]
