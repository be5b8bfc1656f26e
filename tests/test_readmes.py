"""The READMEs: their length, their links, and that the commands in them are the command line's."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from spectron.cli import parser

ROOT = Path(__file__).resolve().parent.parent
READMES = [ROOT / folder / "README.md" for folder in ("", "configs", "launch", "spectron", "tests/benchmarks")]
COMMAND = re.compile(r"(?:^|`)\s*(spectron [a-z-]+ [^`\n]*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands_of(text: str) -> list[str]:
    """Every `spectron …` in code, comments cut off and lines that end in a backslash joined."""
    found = COMMAND.findall(text.replace("\\\n", " "))
    return [re.split(r"\s+#|\s+·", command)[0].strip() for command in found]


def subparser(tokens: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the innermost command, and what is left for it."""
    current = parser()
    while True:
        choices = next((a.choices for a in current._actions if isinstance(a, argparse._SubParsersAction)), None)
        if not choices or not tokens:
            return current, tokens
        name, *tokens = tokens
        if name in ("SUITE", "METRIC", "KIND", "…"):
            return current, []
        names = name.split("|")  # "list|inspect"
        assert set(names) <= set(choices), f"there is no {name!r}"
        current = choices[names[0]]


def check_command(command: str) -> None:
    """Fail for an unknown command or flag."""
    leaf, left = subparser(shlex.split(command)[1:])
    unknown = [token for token in left if token.startswith("--") and token not in leaf._option_string_actions]
    assert not unknown, f"{command}: no {unknown[0]}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_commands_in_a_readme_exist(path):
    for command in commands_of(path.read_text(encoding="utf-8")):
        check_command(command)


def test_every_row_of_the_evaluation_table_parses():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Evaluation")[2]
    rows = re.findall(r"^\| `([^`]*)` \|", section, re.MULTILINE)
    suites = [row for row in rows if "--out" in row]
    assert len(suites) == 7
    for suite in suites:
        parser().parse_args(["evaluate", *shlex.split(suite)])


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_links_in_a_readme_lead_somewhere(path):
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        linked = (path.parent / target).resolve() if target else path
        linked = linked / "README.md" if linked.is_dir() else linked
        assert linked.is_file(), f"{name_of(path)}: {target}"
        if anchor:
            assert anchor in anchors_of(linked), f"{name_of(path)}: #{anchor}"


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
