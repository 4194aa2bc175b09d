from __future__ import annotations

import timeit
from typing import Any

import pytest

from core.kernel.errors import Unprocessable
from core.secrets import find_literal_secret, looks_secret

# Built from halves, so that no scanner takes this file for a leak.
ANTHROPIC = "sk-" + "ant-api03-" + "a1B2c3D4e5F6g7H8"
OPENAI = "sk-" + "a1B2c3D4e5F6g7H8i9J0"
GITHUB = "ghp" + "_" + "a1B2c3D4e5F6g7H8i9J0k1L2"
GITHUB_FINE = "github" + "_pat_" + "a1B2c3D4e5F6g7H8i9J0"
AWS = "AKIA" + "ABCDEFGHIJ234567"
SLACK = "xoxb" + "-1234567890-abcdef"
GOOGLE = "AIza" + "SyA1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q"
JWT = "eyJ" + "hbGciOiJI" + "." + "eyJ" + "zdWIiOiIx" + ".c2lnbmF0dXJl"
PEM = "-----BEGIN " + "RSA PRIVATE KEY-----\nMII"

SECRET_NAMES = """
password db_password passwd secret client_secret clientSecret token GITHUB_TOKEN access-token apiKey api_key APIKey
apikey x-api-key aws_secret_access_key private_key privateKey credential credentials Authorization password2
secret_value --token
"""
ORDINARY_NAMES = """
max_tokens tokens token_count tokenizer secret_name password_file secretary key primary_key keyboard author api_key_id
passage value 123
"""


@pytest.mark.parametrize(
    "name",
    SECRET_NAMES.split(),
)
def test_a_name_whose_last_word_is_secret_looks_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [*ORDINARY_NAMES.split(), ""],
)
def test_other_names_do_not(name: str) -> None:
    assert not looks_secret(name)


@pytest.mark.parametrize("key", [ANTHROPIC, OPENAI, GITHUB, GITHUB_FINE, AWS, SLACK, GOOGLE, JWT, PEM])
def test_a_well_known_key_is_found_anywhere_in_a_text(key: str) -> None:
    assert find_literal_secret({"note": f"use {key} please"}) == "/note"
    assert find_literal_secret(["echo", f"KEY:{key}"]) == "/1"


@pytest.mark.parametrize(
    "text",
    [
        "task-" + "a" * 30,
        "risk-assessment-of-the-whole-thing",
        "eyJust.eyJoking",
        "xoxo-kisses",
        "sk-short",
        "AKIA",
        "",
    ],
)
def test_ordinary_text_is_no_key(text: str) -> None:
    assert find_literal_secret({"note": text}) is None


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"a": {"password": "hunter2"}}, "/a/password"),
        ({"passwords": ["", "hunter2"]}, "/passwords/1"),
        ({"env": {"GITHUB_TOKEN": "x"}}, "/env/GITHUB_TOKEN"),
        ({"a/b": {"token": "x"}}, "/a~1b/token"),
        ({"argv": ["psql", "--password=hunter2"]}, "/argv/1"),
        ({"argv": ["curl", "--token", "x", "url"]}, "/argv/2"),
        ({"argv": ["env", "API_KEY=x", "make"]}, "/argv/1"),
        ({"secret": "lower"}, "/secret"),
        ({"secret": "NAME", "user": "me"}, "/secret"),
    ],
)
def test_a_literal_under_a_secret_name_is_found(value: Any, pointer: str) -> None:
    assert find_literal_secret(value) == pointer


@pytest.mark.parametrize(
    "value",
    [
        {"password": ""},
        {"password": None},
        {"password": {"secret": "DB_PASSWORD"}},
        {"env": {"API_KEY": {"secret": "API_KEY"}}},
        {"max_tokens": "4096"},
        {"argv": ["login", "--token", "--verbose"]},
        {"argv": ["login", "--token"]},
        {"argv": ["login", "--token="]},
        {"argv": ["ls", "--max-tokens=5"]},
        "plain",
        42,
    ],
)
def test_references_and_harmless_values_are_not(value: Any) -> None:
    assert find_literal_secret(value) is None


def test_a_known_value_is_found_inside_a_text_unless_it_is_short() -> None:
    value = {"body": ["it is correct horse, is it not"]}
    assert find_literal_secret(value, {"correct horse", "is"}) == "/body/0"
    assert find_literal_secret(value, ["is", "correct"]) is None


def test_the_pointer_starts_at_the_base() -> None:
    assert find_literal_secret({"token": "x"}, base="/parameters") == "/parameters/token"
    assert find_literal_secret(GITHUB) == ""


def test_a_value_nested_beyond_the_bound_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep]
    with pytest.raises(Unprocessable):
        find_literal_secret(deep)


def test_ordinary_parameters_are_looked_through_quickly() -> None:
    value = {"argv": ["sha256sum", "README.md"], "env": {"LANG": "C"}, "keep": True}
    best_us = min(timeit.repeat(lambda: find_literal_secret(value, ["a known value"]), number=1000, repeat=5)) * 1000
    assert best_us < 100  # the goal is 10; ten times that tells a quadratic mistake from a busy machine
