"""The page of a night: its plots and tables, what it says where there is nothing to say, and that nothing gets in."""

import dataclasses
import datetime as dt
import html
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.evaluation.bootstrap import Interval
from recsys_spark.evaluation.metrics.probability import calibration
from recsys_spark.log.gates import GateResult
from recsys_spark.log.profile import Histogram, Profile
from recsys_spark.reporting import drift, plots, why
from recsys_spark.reporting.calibration import Reliability
from recsys_spark.reporting.html import Fragment, number, signed, table
from recsys_spark.reporting.lists import Lists, lorenz
from recsys_spark.reporting.night import Measured, Night, Published, Tracked
from recsys_spark.reporting.page import SECTIONS, name_of, render
from recsys_spark.reporting.people import Item, Person, people_on

DAY = dt.date(2026, 1, 14)
EVIL = '<script>alert("1")</script>&\'"'
VOID = {"meta", "link", "circle", "line", "rect", "polyline", "br", "img", "path"}


class Page(HTMLParser):
    """The tags of a page, properly closed; its text by section, its ids and addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses, self.words, self.section = [], [], [], [], {}, None
        self.feed(text)
        self.close()
        assert self.open == [], "a tag is left open"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [given[a] for a in ("src", "href", "action") if a in given]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = given["id"]

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.section:
            self.words[self.section] = self.words.get(self.section, "") + data


def night(**changes):
    """A night with something in every section."""
    ends = Interval(0.2, 0.15, 0.25, 400)
    metrics = {f"{m}@10": ends for m in ("ndcg", "recall", "mrr", "map", "coverage", "gini", "novelty", "diversity")}
    metrics["coverage@10"] = Interval(0.2, None, None, 30)  # as nights of few users have it
    metrics["gini@10"] = Interval(float("nan"), float("nan"), float("nan"), 30)
    slices = {f"activity={v}": Interval(0.1 * n, 0.05, 0.4, 200) for n, v in enumerate(("1-4", "5-19", "100+"), 1)}
    slices |= {"user=cold": Interval(0.1, 0.0, 0.2, 3)}
    groups = {
        "popularity": {"tail": {"items": 0.8, "interactions": 0.5, "exposure": {"als": 0.2}, "ratio": {"als": 0.4}}}
    }
    of = {name: {"test": metrics, "valid": metrics} for name in ("als", "popularity")}
    measured = Measured(DAY, of, {name: {"test": slices} for name in of}, groups)
    record = {
        "challenger": {"model": "als"}, "opponent": "popularity", "difference": metrics_difference(),
        "p_permutation": 0.001, "checks": [{"name": "max_gain", "passed": True, "found": "fine"}],
        "metrics": {"ndcg@10": metrics_difference()},
    }  # fmt: skip
    gates = [
        GateResult("volume_drop", 0.3, 0.25, 0.33, "warn", "fewer"), GateResult("mix", 0.1, 0.25, None, "pass", "same"),
        GateResult("drift.device", None, 0.25, None, "not judged", "few"),
    ]  # fmt: skip
    rows = [{"station": "ingest", "what": "rows in", "rows": 10}, {"station": "ingest", "what": "= events", "rows": 10}]
    curves = {"neumf": {"epoch/loss": [(1.0, 0.5), (2.0, 0.25)]}}
    tracked = Tracked("als beats popularity", record, gates, rows, curves, {}, "als")
    shown = Lists({"als": [0.3, 0.2]}, {"als": [(0.0, 0.0), (1.0, 1.0)]}, [(0.0, 0.0), (1.0, 1.0)], {"als": [0.1] * 10})
    promised = Reliability("dcn_v2", "click", calibration([1, 0, 1], [0.9, 0.1, 0.8]), 0.1, 0.2, 3, 2 / 3)
    person = Person(
        "u1", [Item("i1", "One", "Drama", 2.0)], 1, [Item("i2", "Two", "", 0.5)], "als", {"als": [], "x": []}
    )
    spread = drift.Shares("device", ["phone", "other"], {"2026-01-07": [0.5, 0.5], "2026-01-14": [0.6, 0.4]})
    whole = Night(
        "tiny", DAY, "v1", measured, dataclasses.replace(measured, day=DAY - dt.timedelta(1)), tracked,
        Published("lists-1", 20, 100, 0.5, 0.1, "als"), 100, shown, [promised], [spread], "2026-01-07", [person], False,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def metrics_difference():
    return {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 400, "p_adjusted": 0.001}


NOTHING = {
    "before": None, "tracked": Tracked(), "published": None, "lists": Lists(), "reliability": [], "drift": [],
    "reference": None, "people": [],
}  # fmt: skip


def test_a_page_has_every_section_and_needs_nothing_else():
    page = Page(render(night()))
    assert [name for name in page.ids if not name.endswith("-title")] == [name_of(m) for m in SECTIONS]
    assert len(page.ids) == len(set(page.ids))
    assert {a for a in page.addresses if not a.startswith("#")} == {"data:,"}
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for wanted in (
        "als beats popularity",
        "0.2000",
        "activity=100+",
        "epoch",
        "dcn_v2",
        "tail",
        "device",
        "warn",
        "Two",
    ):
        assert wanted in html.unescape(render(night())), wanted
    assert "user=cold" not in page.words["slices"], "3 users are no slice"


def test_every_figure_has_a_text_alternative_and_every_table_its_own_box():
    page = Page(render(night()))
    pictures = [given for tag, given in page.tags if tag == "svg"]
    assert len(pictures) > 10
    assert all(given["role"] == "img" and len(given["aria-label"]) > 20 for given in pictures)
    boxes = [given for tag, given in page.tags if given.get("class") == "scroll"]
    assert sum(tag == "table" for tag, _ in page.tags) <= len(boxes)
    assert all(given["aria-label"] and given["tabindex"] == "0" for given in boxes)


@pytest.mark.parametrize("section", [name_of(m) for m in SECTIONS])
def test_a_section_without_data_says_why(section):
    page = Page(render(night(**NOTHING, measured=dataclasses.replace(night().measured, slices={}, groups={}))))
    assert len(page.words[section].strip()) > 20, section


def test_whatever_is_input_is_escaped():
    item = Item(EVIL, EVIL, EVIL, 0.5)
    person = Person(EVIL, [item], 1, [item], EVIL, {EVIL: [item]})
    gate = GateResult("mix", 0.1, 0.25, None, "warn", EVIL)
    told = dataclasses.replace(night().tracked, why=EVIL, gates=[gate], curves={EVIL: {"epoch/loss": [(1.0, 1.0)]}})
    spread = drift.Shares(EVIL, [EVIL], {EVIL: [1.0]})
    text = render(night(people=[person], tracked=told, drift=[spread], name=EVIL))
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags} and "<script" not in text
    assert people_on(text) == {EVIL}


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True))
def test_the_people_on_a_page_are_found_however_they_are_called(ids):
    cards = Fragment("").join(Fragment('<h3 data-user="{}">{}</h3>').format(i, i) for i in ids)
    assert people_on(str(cards)) == set(ids)


def test_a_page_is_the_same_every_time():
    assert render(night()) == render(night())


# --- plots ---

NUMBERS = st.floats(-1e6, 1e6) | st.just(float("nan"))


def drawn(figure):
    """Every number of a plot's drawing, and the SVG as XML."""
    svg = re.search(r"<svg.*</svg>", str(figure), re.DOTALL)[0]
    tree = ElementTree.fromstring(svg)
    return tree, [
        float(v) for e in tree.iter() for k, v in e.attrib.items() if re.fullmatch(r"[xyr]\d?|c[xy]|width|height", k)
    ]


@given(st.lists(st.tuples(st.text("ab<&", max_size=40), NUMBERS, NUMBERS, NUMBERS), max_size=5))
def test_dots_and_bars_stay_on_the_drawing(rows):
    dots = plots.dots([plots.Dot(label, v, min(a, b), max(a, b)) for label, v, a, b in rows], "t", "s")
    bars = plots.bars(
        [plots.Bar(label, v, plots.color(0), number(v)) for label, v, _, _ in rows], "t", "s", {"warn": 0.25}
    )
    for figure in (dots, bars):
        _, numbers = drawn(figure)
        assert all(-1 <= n <= max(plots.WIDTH, 20 * len(rows) + 40) + 1 for n in numbers)


@given(
    st.dictionaries(
        st.text("xy", min_size=1, max_size=3), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), max_size=3
    )
)
def test_lines_stay_on_the_drawing(series):
    for diagonal in (False, True):
        if diagonal and any(min(p, default=0) < 0 for of in series.values() for p in of):
            continue
        tree, _ = drawn(plots.lines(series, "t", "s", "x", "y", diagonal=diagonal))
        points = [p.split(",") for e in tree.iter() if e.tag == "polyline" for p in e.attrib["points"].split()]
        assert all(-1 <= float(x) <= plots.WIDTH and 0 <= float(y) <= 240 for x, y in points)


def test_a_dot_lies_between_the_ends_of_its_interval_and_further_right_where_it_is_larger():
    figure = plots.dots([plots.Dot("a", 0.2, 0.1, 0.3), plots.Dot("b", 0.4, 0.3, 0.5)], "t", "s")
    tree, _ = drawn(figure)
    at = [float(e.attrib["cx"]) for e in tree.iter() if e.tag == "circle"]
    ends = [(float(e.attrib["x1"]), float(e.attrib["x2"])) for e in tree.iter()
            if e.tag == "line" and "stroke-width:2" in e.attrib["style"]]  # fmt: skip
    assert at[0] < at[1] and all(low < dot < high for dot, (low, high) in zip(at, ends, strict=True))
    assert "a 0.2000 [0.1000, 0.3000]" in str(figure)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_round_and_within(low, width, most):
    found = plots.ticks(low, low + width, most)
    assert len(found) <= most + 1
    assert all(low - width * 1e-6 <= t <= low + width * (1 + 1e-6) for t in found)


def test_numbers_as_people_read_them():
    assert (number(3), number(0.5, 2), signed(-0.25, 2), number(float("inf"))) == ("3", "0.50", "−0.25", "–")


def test_a_cell_is_escaped_and_a_fragment_is_not():
    assert "<td>&lt;b&gt;</td>" in table(["h", "g"], [["x", "<b>"]], "n")
    assert "<td><b></b></td>" in table(["h", "g"], [["x", Fragment("<b></b>")]], "n")


# --- what is drawn ---


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_a_lorenz_curve_says_what_the_smallest_have(counts):
    points = lorenz(np.array(counts))
    for x, y in points:
        assert y == pytest.approx(sum(sorted(counts)[: round(x * len(counts))]) / sum(counts))
    assert points[0] == (0.0, 0.0) and points[-1] == (1.0, 1.0)


def profile(batch, **histograms):
    return Profile(batch, 10, 0, 10, 0, 0, 0, 10, {}, None, histograms, None, None)


def test_shares_are_of_all_events_and_name_what_is_not_shown():
    many = {str(n): 1 for n in range(10)}
    before = profile(
        "2026-01-01", device=Histogram(False, {"phone": 6, "tv": 2}, 0, 2), hour=Histogram(False, {"03": 5})
    )
    now = profile("2026-01-02", device=Histogram(False, many, 5, 0), hour=Histogram(False, {"01": 1, "03": 1}))
    device, hour = drift.shares(before, now)
    assert (hour.labels, hour.days) == (["01", "03"], {"2026-01-01": [0.0, 1.0], "2026-01-02": [0.5, 0.5]})
    assert device.labels[:2] == ["phone", "tv"] and device.labels[-2:] == ["other", "none"]
    for of in device.days.values():
        assert sum(of) == pytest.approx(1.0)
    assert device.days["2026-01-01"][:2] == [0.6, 0.2] and device.days["2026-01-01"][-1] == 0.2


def test_numbers_are_in_their_order_and_plain():
    of = Histogram(True, {"1.0e+01": 1, "2.0e+00": 3})
    (found,) = drift.shares(profile("a", rating=of), profile("b", rating=of))
    assert found.labels == ["2", "10"] and found.days["b"] == [0.75, 0.25]


# --- why lists differ ---


def test_lists_side_by_side_and_what_they_share():
    a, b, c, d = (Item(i, i.upper(), kind, 1.0) for i, kind in zip("abcd", ("x", "x", "", "y"), strict=True))
    person = Person("u", [a], 1, [b], "als", {"als": [b, c], "pop": [d, b], "none": []})
    table = why.ranks(person)
    assert table["title"].tolist() == ["B", "D", "C"]
    assert table["als"].tolist() == [1, pd.NA, 2] and table["pop"].tolist() == [2, 1, pd.NA]
    assert why.overlap(person).to_dict() == {"als": {"als": 1.0, "pop": 0.5}, "pop": {"als": 0.5, "pop": 1.0}}
    assert why.kinds(person).to_dict()["als"] == {"x": 0.5, "none": 0.5, "y": 0.0}
    assert why.side_by_side(person)["pop"].tolist() == ["D", "B"]
