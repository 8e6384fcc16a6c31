"""The documentation is held to the program: help, links, commands, and what may not stand in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not {".venv", ".nox", "node_modules"} & set(path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_the_command_lines_page_is_the_programs_own_help() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_command_that_the_readme_shows_exists() -> None:
    from bench.cli.main import cli

    shown = re.findall(r"^bench ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"run", "report", "parity", "images", "data", "matrix"} <= set(shown)
    assert set(shown) <= set(cli.commands)


def test_the_readmes_matrix_loads(tmp_path: Path) -> None:
    from bench.matrix.matrix import load

    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert len(load(str(path)).comparisons) == 12


def test_ci_finds_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- the test command -->\n```sh\n(python3 .*)\n```", readme)
    assert len(found) == 1
    assert found[0].endswith("-m pytest")


def test_every_module_of_the_design_page_is_where_the_page_has_it() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text)) - {"tensorflow.py", "pytorch.py"}
    homes = {str(path.relative_to(ROOT)) for folder in ("bench", "workloads") for path in (ROOT / folder).rglob("*.py")}
    assert len(modules) > 20
    assert {one for one in modules if not any(home.endswith(f"/{one}") or home == one for home in homes)} == set()
    drawn = set(re.findall(r"^\| `([a-z]+)` \| [^|]+ \| [^|]*\|$", text, flags=re.MULTILINE))
    folders = {path.name for path in (ROOT / "bench").iterdir() if (path / "__init__.py").exists()}
    assert drawn - folders == {"api", "store", "stats"}
    assert folders <= drawn


def test_every_file_of_tests_stands_in_the_table_of_promises_under_its_tiers() -> None:
    text = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2:5] for line in text.splitlines() if line.count("|") == 5 and ".py`" in line]
    told = {
        tier: set(re.findall(r"`([a-z0-9]+/test_\w+\.py)`", " ".join(row[column] for row in rows)))
        for column, tier in enumerate(("first", "second", "nightly"))
    }
    held: dict[str, set[str]] = {tier: set() for tier in told}
    for path in (ROOT / "tests").rglob("test_*.py"):
        name, code = str(path.relative_to(ROOT / "tests")), path.read_text(encoding="utf-8")
        marked = set(re.findall(r"mark\.(first|second|nightly)\b", code))
        whole = re.search(r"^pytestmark = (\[[^\]]*|.*)mark\.(first|second|nightly)\b", code, flags=re.MULTILINE)
        usual = "first" if name.startswith("unit/") else "second"
        for tier in marked | (set() if whole else {usual}):
            held[tier].add(name)
    for tier, files in held.items():
        assert (told[tier] - files, files - told[tier]) == (set(), set()), f"{tier}: too many, and missing"


def test_what_the_contributors_page_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), flags=re.M))
    lines = re.findall(r"`nox -s ([a-z ]+?)(?: --.*?)?`", text)
    assert {name for line in lines for name in line.split()} <= sessions
    paths = {one.rstrip("/") for one in re.findall(r"`([\w./]+/[\w./]*)`", text)}
    assert len(paths) > 8
    assert {one for one in paths if "NAME" not in one and not (ROOT / one).exists()} == set()


def test_no_tracked_text_names_a_package_registry_or_a_path_of_this_machine() -> None:
    hosts = ["py" + "pi.org", "pythonhosted" + ".org", "npm" + "js.org", "deb" + ".debian.org", "download." + "pytorch"]
    paths = ["/op" + "t/wheels", "/wor" + "k/main", "/roo" + "t/"]
    texts = [path for path in tracked() if path.suffix not in {".parquet", ".svg", ".png"} and path.is_file()]
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in texts
        for word in hosts + paths
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert found == []
