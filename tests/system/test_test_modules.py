"""The tests themselves: each module can be read, moved and run without another one."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

_FROM_A_TEST_MODULE = re.compile(
    r"^ *(?:from tests(?:\.\w+)*\.test_\w+ import|import tests(?:\.\w+)*\.test_|from tests\S* import .*\btest_\w+)",
    re.MULTILINE,
)


def test_no_module_imports_from_a_test_module() -> None:
    found = {
        str(path.relative_to(ROOT)): imports
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if (imports := _FROM_A_TEST_MODULE.findall(path.read_text()))
    }
    assert found == {}, "what is shared lies in tests/support"
