import dataclasses
import re
from html.parser import HTMLParser

import pytest

from isogrid.report.data import ReportData
from isogrid.report.html import page, write_html


class Links(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr", "col", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(text: str) -> Links:
    links = Links()
    links.feed(text)
    assert links.open == []
    return links


def test_the_page_fetches_nothing_and_is_the_same_every_time(any_report):
    text = page(any_report)
    assert text == page(any_report)
    links = read(text)
    assert all(link.startswith(("#", "data:")) for link in links.fetched)
    assert not re.search(r"url\((?!['\"]?(#|data:))|@import", text)
    assert "{{" not in text
    assert "None" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)


def test_hostile_names_stay_text(digits):
    evil = "<script>alert(1)</script>\x1b[31m"
    layers = [dataclasses.replace(digits.layers[0], name=evil), *digits.layers[1:]]
    links = read(page(dataclasses.replace(digits, title=evil, task=evil, command=evil, layers=layers)))
    assert links.scripts == read(page(digits)).scripts


@pytest.mark.parametrize("state", ["held", "broken", "unresolved", "untested"])
def test_every_verdict_has_a_page(digits, state):
    text = page(dataclasses.replace(digits, verdict=dataclasses.replace(digits.verdict, state=state)))
    said = {"held": "Floor held", "broken": "Floor broken", "unresolved": "Not resolved", "untested": "Not tested"}
    assert said[state] in text
    assert ("There is no test split" in text) == (state == "untested")


def test_a_report_without_its_optional_parts(digits):
    bare = dataclasses.replace(
        digits,
        layers=[], activations=[], inputs=None, classes=[], changes=None, history=[],
        dense=dataclasses.replace(digits.dense, test_metric=None, train_metric=None),
        balance=dataclasses.replace(digits.balance, test_metric=None, train_metric=None),
        verdict=dataclasses.replace(digits.verdict, state="untested"),
    )  # fmt: skip
    text = page(bare)
    read(text)
    assert "Validation accuracy" in text
    assert "Test accuracy" not in text


def test_the_page_says_the_numbers_of_the_run(digits, tmp_path):
    write_html(digits, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{digits.balance.nonzeros:,}" in text
    assert ReportData.from_json(digits.to_json()).chosen is not None
    assert f"{100 * digits.balance.test_metric:.2f}" in text


def test_speed_has_a_section_where_it_was_measured(digits):
    text = page(digits)
    assert '<h2 id="speed">' in text
    assert "4.80\N{MULTIPLICATION SIGN} (4.66 to 4.94)" in text
    assert "No packed model" not in text
    unpacked = [row for row in digits.speed.rows if row.model != "packed"]
    assert "No packed model" in page(
        dataclasses.replace(digits, speed=dataclasses.replace(digits.speed, rows=unpacked))
    )
    assert '<h2 id="speed">' not in page(dataclasses.replace(digits, speed=None))


def test_the_cost_of_training_is_compared_where_it_was_counted(digits):
    assert '<th scope="row">Operations of training</th>' in page(digits)
    assert "Operations of training" not in page(dataclasses.replace(digits, training=None))
