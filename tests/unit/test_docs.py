"""Pages that are generated are up to date; files that pages name exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["cli.md", "configuration.md", "policy.md", "providers.md"])
def test_generated_pages_are_up_to_date(tmp_path: Path, page: str) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "deploy/generate_docs.py"), str(tmp_path)],
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert (ROOT / "docs" / page).read_text() == (tmp_path / page).read_text(), "run: make docs"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for named in re.findall(r"`((?:docs|tests|examples|benchmarks|deploy|proto)/[\w./-]+)`", text):
        assert (ROOT / named).exists(), f"{page.name} names {named}"


def test_every_test_that_the_security_page_names_exists() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)", text)
    assert len(named) > 20
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_every_dependency_has_its_line() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (ROOT / "docs/dependencies.md").read_text().lower()
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in group:
            name = re.split(r"[<>=\[ ]", requirement)[0].lower()
            if not name.startswith("types-") and name != "grpc-stubs":
                assert re.search(rf"\b{re.escape(name)}\b", listed), f"{name} is not explained"
