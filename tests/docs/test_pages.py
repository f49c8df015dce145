"""The documentation is true: its Python runs, what it says is printed is printed, and nothing public is left out."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?P<indent> *)```python(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A ```python block: its code, where it stands, and the file name in its ``title``, if it has one."""

    page: Path
    line: int
    code: str
    title: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match["info"])
        line = text.count("\n", 0, match.start("code"))
        yield Block(page, line, textwrap.dedent(match["code"]), title[1] if title else None)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def promised_output(code: str) -> list[str]:
    """The comments behind ``print(...)``: what the page says is printed, line by line."""
    lines = code.splitlines()
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.COMMENT
    ]
    return [
        token.string.removeprefix("#").strip()
        for token in comments
        if lines[token.start[0] - 1].lstrip().startswith("print(") and token.start[1] > 0
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=named)
def test_every_block_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from isogrid.sparsify import method

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(method, "_METHODS", dict(method._METHODS))  # a page may register a method of its own
    namespace: dict[str, object] = {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks(page):
            if block.title:
                continue  # a file of its own, which has a test of its own
            # The blank lines make a traceback point to the line of the page.
            program = compile("\n" * block.line + block.code, str(page), "exec")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(program, namespace)
            promised = promised_output(block.code)
            if promised:
                assert printed.getvalue().splitlines() == promised, f"{named(page)}, line {block.line + 1}"


def test_a_wrong_promise_is_seen() -> None:
    assert promised_output("print(1)  # 2\nx = 1  # no promise\n# print(3)\n") == ["2"]


def test_every_file_that_a_page_shows_has_a_test() -> None:
    shown = {block.title for page in PAGES for block in blocks(page) if block.title}
    here = {"breast_cancer.py", "mine.py", "test_mine.py"}
    of_the_uses = {"commands.py", "pictures.py"}
    assert shown == here | of_the_uses
    tests = (ROOT / "tests" / "tasks" / "test_uses_pages.py").read_text(encoding="utf-8")
    assert all(f'"{name}"' in tests for name in of_the_uses)


def test_the_task_file_of_the_page_runs_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from isogrid import cli

    page = ROOT / "docs" / "getting-started.md"
    (block,) = [block for block in blocks(page) if block.title == "breast_cancer.py"]
    (tmp_path / "breast_cancer.py").write_text(block.code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = ["isogrid", "optimize", "breast_cancer.py", "--max-drop", "1pt"]
    assert " ".join(command) in page.read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "runs" / "breast_cancer" / "result.json").read_text(encoding="utf-8"))
    assert result["verdict"]["state"] in ("held", "unresolved")
    assert result["balance"]["sparsity"] >= 0.8
    assert result["balance"]["bytes"] * 8 < result["dense"]["bytes"]


def test_every_method_is_on_the_methods_page() -> None:
    from isogrid.sparsify import methods

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name, entry in methods().items():
        assert f"`{name}`" in text, name
        assert f"`{entry.cls.__name__}`" in text, entry.cls.__name__


def test_every_public_name_is_in_the_reference() -> None:
    import isogrid

    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    listed = {line.rpartition(".")[2] for line in text.splitlines() if line.startswith("::: ")}
    assert set(isogrid._PLACES) - listed == set()


def test_every_exit_code_is_on_the_page_of_the_main_job() -> None:
    from isogrid import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)} | {0, 130}
    text = (ROOT / "docs" / "main-job.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| `(\d+)` \|", text, re.MULTILINE)} == codes


def test_every_concept_has_its_chinese_name_and_a_snippet() -> None:
    page = ROOT / "docs" / "zh" / "concepts.md"
    names = (
        *("精度", "稀疏性", "静态稀疏性", "动态稀疏性", "稀疏正则化", "L1 正则化", "L2 正则化", "稀疏激活函数"),
        *("稀疏 ReLU", "稀疏 Tanh", "稀疏训练策略", "稀疏触发", "稀疏感知", "平衡点", "精度阈值", "泛化与过拟合"),
        "可解释性",
    )
    sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for name in names:
        assert any(name in section.splitlines()[0] and "```python" in section for section in sections), name


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", text):
            assert (page.parent / link).exists(), f"{named(page)} links to {link}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "zh" / "concepts.html").is_file()
    # Without the extension Markdown takes the examples of docstrings for quotations.
    reference = (tmp_path / "site" / "api" / "sparsity.html").read_text(encoding="utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in reference
    assert "<blockquote>" not in reference
