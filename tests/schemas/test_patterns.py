"""A pattern means the same in Python, which checks it, and in ECMAScript, which documents are read by."""

from __future__ import annotations

import re

import pytest

from core.execution import Sha256
from core.kernel.errors import Unprocessable
from core.task import SubmitTask
from entrypoints.calls import fitted
from entrypoints.schemas.declared import documents
from tests.schemas.patterns import patterns

PATTERNS = patterns(documents("0.0.0"))
# (?P<name>), \A, \Z, (?i), (?#), possessive and atomic groups: Python's, and no ECMAScript.
PYTHONS_OWN = re.compile(r"\(\?[P#aiLmsux>]|\\[AZ]|[*+?}]\+")


def test_there_are_patterns() -> None:
    assert len(PATTERNS) >= 4
    assert Sha256.__metadata__[0].pattern.startswith("^")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_ecmascript_and_ends_where_the_text_ends(pattern: str) -> None:
    assert not PYTHONS_OWN.search(pattern)
    # A text that may hold newlines may end with one; any other must not.
    for text in ("word", "a" * 64, "12", "A", "2026-01-31T12:00:00.000Z"):
        if re.search(pattern, text) and not re.search(pattern, "a\nb"):
            assert not re.search(pattern, f"{text}\n"), text


@pytest.mark.parametrize("word", ["greet\n", "\ngreet", "greet \n", ""])
def test_a_word_with_a_newline_is_refused(word: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        fitted({"type": word, "parameters": {}}, SubmitTask)
    assert refused.value.pointer == "/type"
