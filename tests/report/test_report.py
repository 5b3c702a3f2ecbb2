"""report.html, slides.html and 요약.md, from a small run folder made here."""

import base64
import io
import json
import re
import shutil
import subprocess
from datetime import date

import nbformat
import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib import config
from lib.config import ROOT
from lib.report import facts, report

PNG = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5E"
       "rkJggg==")
TABLE = ('<table>\n<thead><tr><th align="right" style="text-align: right">rows</th></tr></thead>\n'
         '<tbody><tr><td align="right" style="text-align: right">1,000</td></tr></tbody></table>')


def found(value, low, high):
    return {"value": value, "low": low, "high": high}


FULL = {
    "run_id": "20260101-000000-local-dev", "target": "local", "env": "dev",
    "started_at": "2026-01-01T09:00:00+09:00", "seconds": 67.0,
    "stages": [
        {"name": "01_data", "seconds": 2.4, "status": "created",
         "resources": {"dataset": "local-demo.churn_dev"}, "figures": {}},
        {"name": "04_feature_store", "seconds": 0.8, "status": "created",
         "resources": {"online store": "projects/p/locations/r/featureOnlineStores/s",
                       "dataset": "local-demo.churn_dev"},
         "figures": {"online store": {"nodes": "1 to 2"}}},
        {"name": "06_deploy", "seconds": 4.0, "status": "failed", "resources": {},
         "figures": {"deployment": {"machine": "n1-standard-2"}}},
    ],
    "labels": {"column": "label_churn_60d", "rows": 47131, "positive_rate": 0.9147},
    "metrics": {"roc_auc": 0.7005, "pr_auc": 0.9444, "positive_rate": 0.8754},
    "leakage": {
        "orders": {"promised": found(404, 383, 425), "kept": found(171, 154, 188),
                   "honest": found(299, 280, 318), "chance": found(123, 119, 128),
                   "promised - kept": found(233, 175, 291), "honest - kept": found(128, 80, 176)},
        "roc_auc": {"promised": found(0.772, 0.75, 0.79), "kept": found(0.634, 0.6, 0.66),
                    "honest": found(0.757, 0.74, 0.77)},
        "usd": {"promised": 11160, "kept": -1840, "honest": 6960},
        "campaign": {"contacted_share": 0.1, "usd_per_contact": 5, "usd_per_order": 40},
        "groups": 8, "rows": 2000, "customers": 500,
        "future": {
            "days": [0, 7, 30, 60], "promised": [299, 340, 635, 1000],
            "kept": [299, 229, 159, 148], "customer": {
                "customer_id": "77", "label_date": "2026-05-04", "horizon_days": 60,
                "orders": [-200.5, -19.0, 21.5], "rows": [
                    {"orders_lifetime": 2 + (n > 1), "days_since_last_order": 16 + n}
                    for n in range(4)]}}},
    "parity": {"customers": 200, "features": 11, "mismatches": 0, "max_abs_diff": 0.0,
               "faults_caught": {"no dense": 12, "60 days as 90d": 3, "never synced": 0}},
    "freshness": {"customers": 12, "served": 550, "mismatches_before": 57, "mismatches_after": 0,
                  "probability_before": 0.956, "probability_after": 0.712},
    "latency_ms": {"fetch_p50": 2.954, "fetch_p99": 8.228, "predict_p50": 13.708,
                   "predict_p99": 40.281, "both_p50": 17.0, "both_p99": 45.0,
                   "sql_features_p50": 850.0},
    "predictions": [],
}
BARE = {**FULL, "stages": [], **dict.fromkeys(
    ("labels", "metrics", "leakage", "parity", "freshness", "latency_ms", "predictions"))}


def chart(title, tags=(), slide="-"):
    data = {"image/png": PNG + "\n", "text/plain": f"<Figure: {title}>"}
    return code("charts.it()", [new_output("execute_result", data)], tags, slide)


def code(source, outputs=(), tags=(), slide="-"):
    return new_code_cell(source, outputs=list(outputs), metadata={
        "tags": list(tags), "slideshow": {"slide_type": slide}})


def words(source, tags=(), slide="slide"):
    return new_markdown_cell(source, metadata={
        "tags": list(tags), "slideshow": {"slide_type": slide}})


def printed(text):
    return new_output("stream", name="stdout", text=text)


def html(text):
    return new_output("execute_result", {"text/html": text, "text/plain": "<Styler>"})


def write_notebooks(folder, tags=()):
    """Two notebooks: prose, logs, charts, tables, an error, and things that must not get out."""
    first = new_notebook(cells=[
        words("# 1 · The data: a shop\n\n**Goal.** Costs $5, then $6. See [2](02_features.ipynb)"),
        code('run_dir = "/secret/runs/x"', tags=["injected-parameters"]),
        code("import sys", slide="skip"),
        words("## What we build\n\nSee [lib](../lib/x.py), [web](https://example.com/a) and "
              "![remote](https://example.com/p.png) ![gone](images/none.png)", tags),
        chart("A finding with < and \"quotes\"", tags),
        code("run.step()", [printed("step: started\n"), printed(f"step: {ROOT}/runs/x\n")]),
    ])
    second = new_notebook(cells=[
        words("# 2 · Features: values"),
        words("## Takeaways\n\n### Detail\n\ntext"),
        code("table", [html(TABLE)]),
        code("bad", [html('<b onclick="x()">hi</b><script>alert(1)</script><img src="http://a/b">'
                          '<style>@import "http://a/c.css";</style>'
                          '<p style="background:url(//a/d)">'
                          '<iframe src="http://a"></iframe>')]),
        code("boom", [new_output("error", ename="E", evalue="x",
                                 traceback=["\x1b[31mE\x1b[0m: <x>"])]),
        words("## Values", tags),
        chart("Another finding", tags),
        chart("A third", tags, "subslide"),
    ])
    for name, notebook in (("01_data", first), ("02_features", second)):
        nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture(params=[FULL, BARE], ids=["full", "bare"])
def folder(request, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(request.param))
    write_notebooks(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The complete run's folder, with all pages made."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "summary.json").write_text(json.dumps(FULL))
    write_notebooks(folder, ["deck"])
    assert [line.split(":")[0] for line in report.after_run(folder)] == [
        "report.html", "slides.html"]
    return folder


def soup(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def assert_offline(page):
    """Nothing that a browser would load, in attributes, styles or scripts."""
    text = page.read_text(encoding="utf-8")
    read = BeautifulSoup(text, "html.parser")
    for tag in read.find_all(True):
        for name in ("src", "srcset", "poster", "data", "background", "action"):
            assert str(tag.get(name, "data:")).startswith("data:"), tag.name
        if tag.name != "a":
            assert not tag.has_attr("href"), tag
        assert not [name for name in tag.attrs if name.startswith("on")], tag
    assert not read.find_all(["link", "iframe", "object", "embed", "base"])
    assert not re.search(r"url\((?!data:)", text) and "@import" not in text
    policy = read.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; img-src data:")


def test_both_pages_need_no_network_and_every_link_on_them_leads_somewhere(folder):
    for page in (report.build(folder), report.slides(folder)):
        assert_offline(page)
        read = soup(page)
        ids = [tag["id"] for tag in read.find_all(id=True)]
        assert len(ids) == len(set(ids))
        for link in read.find_all("a"):
            assert link["href"].startswith("https://") or link["href"][1:] in ids, link
        assert str(ROOT) not in str(read) and "/secret" not in str(read)


def test_every_page_brings_the_korean_letters_that_it_shows(folder):
    for page in (report.build(folder), report.slides(folder, "ko")):
        text = page.read_text(encoding="utf-8")
        (data,) = re.findall(r"Hangul; src: url\(data:font/woff;base64,([^)]+)\)", text)
        known = TTFont(io.BytesIO(base64.b64decode(data))).getBestCmap()
        shown = {ord(letter) for letter in soup(page).get_text() if "가" <= letter <= "힣"}
        assert len(shown) > 100 and shown <= set(known) and len(known) < 1500
        assert all(one.startswith(("Hangul", "inherit"))
                   for one in re.findall(r"font-family:\s*([^;]+);(?! src)", text))


def test_headings_go_down_one_level_at_a_time_and_pictures_are_described(folder):
    read = soup(report.build(folder))
    levels = [int(tag.name[1]) for tag in read.find_all(re.compile(r"^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), levels
    pictures = [image["alt"] for image in read.find_all("img")]
    assert 'A finding with < and "quotes"' in pictures and all(pictures)
    assert read.html["lang"] == "en" and read.find(id="요약")["lang"] == "ko"


def test_the_first_screen_has_one_number_for_each_finding(full):
    read = soup(full / "report.html")
    cards = [card.get_text(" ", strip=True) for card in read.select(".finding")]
    assert len(cards) == 4
    assert "404 → 171 orders of 1,000 contacts" in cards[0] and "404 (383–425)" in cards[0]
    assert "+$11,160 promised, −$1,840 in production; point-in-time +$6,960" in cards[0]
    assert "0.772, 0.634; point-in-time 0.757" in cards[0]
    assert "0 of 2,200" in cards[1] and "2 of 3 caught" in cards[1]
    assert "57 → 0" in cards[2] and "95.6% before, 71.2% after" in cards[2]
    assert "17 ms" in cards[3] and "288 times as long as a fetch" in cards[3]
    assert "one machine" in cards[3]


def test_the_days_of_future_are_a_slider_and_without_scripts_a_table(full):
    (box,) = soup(full / "report.html").select(".explore")
    steps = json.loads(box["data-steps"])
    slider = box.select_one("input[type=range]")
    assert (slider["min"], slider["max"]) == ("0", str(len(steps) - 1))
    assert box.find("label", attrs={"for": slider["id"]}).get_text()
    assert box.find("output", attrs={"for": slider["id"]}).get_text() == "0 days"
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in box.select("tr")][1:]
    assert rows == [["0", "299", "299"], ["7", "340", "229"], ["30", "635", "159"],
                    ["60", "1,000", "148"]]
    assert "promises 635 orders of 1,000 customers; production would see 159" in steps[2]["said"]
    assert "They do not know of the order" in steps[1]["counted"]
    assert "18 days ago. They have counted the order" in steps[2]["counted"]
    assert len(box.select("circle")) == 2  # the order of 200 days before is not drawn
    assert "4\N{NO-BREAK SPACE}May\N{NO-BREAK SPACE}2026" in box.get_text()


@pytest.mark.parametrize("future", [None, {**FULL["leakage"]["future"], "customer": None}])
def test_a_run_without_the_days_of_future_or_without_a_customer_has_a_report(tmp_path, future):
    run = {**FULL, "leakage": {**FULL["leakage"], "future": future}}
    (tmp_path / "summary.json").write_text(json.dumps(run))
    read = soup(report.build(tmp_path))
    assert len(read.select(".explore")) == bool(future) and not read.select(".explore svg")


def test_run_facts_stages_and_resources_are_told_once(full):
    text = soup(full / "report.html").get_text(" ", strip=True)
    assert "1 Jan 2026, 00:00 UTC" in text and "91.5% churned in all label weeks" in text
    assert "47,131 label rows" in text
    assert "How long it took: 67 seconds" in text and "2.4 s" in text and "failed" in text
    assert text.count("featureOnlineStores/s") == 1 and text.count("local-demo.churn_dev") == 1
    assert "1 to 2 Bigtable nodes" in text and "hourly price is to be confirmed" in text


@pytest.mark.parametrize("target, figures, where", [
    ("local", {"as": "read where it is"}, "local stand-in; theLook generated from a seed"),
    ("local", {"users rows": 3}, "local stand-in"),
    ("gcp", {"as": "read where it is"}, "Google Cloud")])
def test_only_generated_data_is_called_generated(target, figures, where):
    stage = {**FULL["stages"][0], "figures": {"source": figures}}
    assert facts.where({**FULL, "target": target, "stages": [stage]}) == where


CDNOW = {**FULL, "run_id": "20260102-000000-local-dev", "started_at": "2026-01-02T09:00:00+09:00",
         "source": {"title": "CDNOW", "is_thelook": False},
         "labels": {"column": "label_churn_60d", "rows": 283232, "positive_rate": 0.678}}


def test_pages_on_other_data_say_nothing_of_thelook(tmp_path):
    pages = {}
    for run in (FULL, CDNOW):
        folder = tmp_path / run["run_id"]
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(run))
        pages[run["run_id"]] = [
            report.build(folder).read_text(), report.slides(folder).read_text(),
            (folder / "요약.md").read_text()]
    assert all("theLook" in page for page in pages[FULL["run_id"]])
    assert all("theLook" not in page and "CDNOW" in page for page in pages[CDNOW["run_id"]])


def write_runs(parent, *runs):
    for run in runs:
        (parent / run["run_id"]).mkdir()
        (parent / run["run_id"] / "summary.json").write_text(json.dumps(run))
    (parent / "latest").symlink_to(runs[-1]["run_id"])
    return parent / "latest"


def test_two_data_sets_are_shown_side_by_side(tmp_path):
    older = {**FULL, "run_id": "older", "started_at": "2025-01-01T09:00:00+09:00",
             "labels": {**FULL["labels"], "rows": 1}}
    bare = {**BARE, "run_id": "bare", "started_at": "2026-01-03T09:00:00+09:00"}
    latest = write_runs(tmp_path, older, FULL, bare, CDNOW)
    report.build(latest)
    assert not soup(latest / "report.html").select(".compared")
    assert report.main(["--run", str(latest), "--compare"]) == 0
    rows = [[cell.get_text() for cell in row.select("th, td")]
            for row in soup(latest / "report.html").select(".compared tr")]
    assert rows[0] == ["", "CDNOW", "theLook eCommerce"]
    assert rows[1] == ["label rows", "283,232", "47,131"]
    assert ["naive join: promised by its own test", *["404 (383 to 425)"] * 2] in rows
    assert ["naive join: seen in production", *["0.634 (0.600 to 0.660)"] * 2] in rows
    assert_offline(latest / "report.html")


@pytest.mark.parametrize("runs", [[FULL], [FULL, BARE | {"run_id": "b"}],
                                  [FULL, {**CDNOW, "leakage": None}]])
def test_nothing_to_compare_with_is_said(tmp_path, capsys, runs):
    assert report.main(["--run", str(write_runs(tmp_path, *runs)), "--compare"]) == 1
    assert "scripts/real_orders.sh" in capsys.readouterr().err


def test_what_was_not_measured_is_said(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(BARE))
    read = soup(report.build(tmp_path))
    cards = read.select(".finding")
    assert ["not measured" in card.get_text() for card in cards] == [True] * 4
    assert "no executed notebook" in read.get_text() and "No stage has run" in read.get_text()
    assert (tmp_path / "요약.md").read_text().count("이번 실행에서는 측정하지 않았습니다") == 4
    assert_offline(report.slides(tmp_path))


@pytest.mark.parametrize("key, lost", [
    ("leakage", "orders"), ("leakage", "usd"), ("parity", "customers"),
    ("parity", "max_abs_diff"), ("freshness", "mismatches_before"), ("latency_ms", "both_p50"),
    ("latency_ms", "sql_features_p50"), ("latency_ms", "both_p99"), ("latency_ms", "fetch_p50")])
def test_a_figure_less_is_no_failure(tmp_path, key, lost):
    partial = {**FULL, key: {k: v for k, v in FULL[key].items() if k != lost}}
    (tmp_path / "summary.json").write_text(json.dumps(partial))
    for page in (report.build(tmp_path), report.slides(tmp_path)):
        text = soup(page).get_text()
        assert "None" not in text and "nan" not in re.findall(r"\w+", text)


def pages_with(tmp_path, **orders):
    """First card, title slide and Korean summary of a run with other orders."""
    leakage = {**FULL["leakage"], "orders": {**FULL["leakage"]["orders"], **orders}}
    (tmp_path / "summary.json").write_text(json.dumps({**FULL, "leakage": leakage}))
    return (soup(report.build(tmp_path)).select_one(".finding").get_text(),
            soup(report.slides(tmp_path)).select_one(".slide").get_text(),
            (tmp_path / "요약.md").read_text())


def test_a_leak_that_the_interval_does_not_show_is_not_called_one(tmp_path):
    card, title, korean = pages_with(tmp_path, **{"promised - kept": found(20, -9, 49)})
    assert "kept its promise" in card and "promises" not in title
    assert "부풀려지지 않았습니다" in korean


def test_no_model_is_called_better_where_the_interval_contains_0(tmp_path):
    assert "299, as promised" in pages_with(tmp_path)[0]
    card, title, korean = pages_with(tmp_path, **{"honest - kept": found(28, -9, 65)})
    assert "do not decide which model is better" in card and "171" in title
    assert "판단할 수 없습니다" in korean
    assert "299, fewer" in pages_with(
        tmp_path, **{"honest - kept": found(-28, -50, -6)})[0]


def test_code_is_folded_and_what_the_runner_added_is_left_out(full):
    read = soup(full / "report.html")
    folded = read.find_all("details")
    assert folded and not any(tag.has_attr("open") for tag in folded)
    assert [tag.summary.get_text() for tag in folded[:2]] == ["Set-up", "Code"]
    assert "run_dir" not in read.get_text()
    assert all(tag.find_parent("details") for tag in read.select(".highlight"))


def test_outputs_are_shown_but_nothing_in_them_runs_or_loads(full):
    read = soup(full / "report.html")
    logs = [tag.get_text() for tag in read.select("pre.log")]
    assert "step: started\nstep: runs/x" in logs  # one block, without this machine's folder
    assert read.select_one("pre.error").get_text() == "E: <x>"
    assert "alert(1)" not in str(read) and "gone" in read.get_text()
    assert TABLE in str(read.select_one(".book .table"))
    assert "Costs $5, then $6." in read.get_text()


def test_the_korean_summary_is_filled_and_invents_no_price(full):
    text = (full / "요약.md").read_text(encoding="utf-8")
    assert "1,000명 가운데 404명" in text and "171명에 그칩니다" in text and "2,200개 값" in text
    assert "예상 +11,160달러, 실제 −1,840달러" in text and "175~291명" in text
    assert "전체 550개 중 57개" in text and "약 288배" in text and "95.6%" in text
    assert text.count("단가는 아직 확인되지 않았습니다") == 2 and "TiB당 6.25달러" in text
    assert not re.search(r"None|\{\{|nan", text) and "2026년 1월 1일 00:00(UTC)" in text
    assert "네 가지 확인 결과" in soup(full / "report.html").find(id="요약").get_text()


def core(folder):
    """(title, text, presenter notes) of each core slide."""
    found = []
    for slide in soup(folder / "slides.html").select(".slide.core"):
        (notes,) = slide.select("aside.notes")
        found.append((slide.select_one("h1, h2").get_text(" ", strip=True),
                      slide.select_one(".frame").get_text(" ", strip=True),
                      notes.get_text(" ", strip=True)))
    return found


def test_eight_core_slides_come_first_and_each_title_is_a_message_with_its_number(full):
    slides = soup(full / "slides.html").select(".slide")
    assert ["core" in slide["class"] for slide in slides] == [
        *[True] * report.CORE_SLIDES, *[False] * (len(slides) - report.CORE_SLIDES)]
    titles = [title for title, *_ in core(full)]
    assert len(titles) == 8 and all(re.search(r"\d", title) for title in titles[:3] + titles[4:])
    for n, part in enumerate([
            "404 orders of 1,000 contacts where production would see 171",
            "promises 404 orders; production would see 171",
            "If training sees 30 days of the future, the promise rises from 299 to 635 orders, "
            "and production falls to 159", "feeds both the training and the prediction",
            "All 2,200 compared values",
            "57 of 550 served values are out of date; after the sync, 0",
            "A prediction takes 17 ms", "We ask you to decide 5 points; all are still"]):
        assert part in titles[n]


def test_every_slide_has_notes_and_those_of_the_core_say_what_will_be_asked(full):
    slides = soup(full / "slides.html").select(".slide")
    assert all(len(slide.select("aside.notes")) == 1 for slide in slides)
    for title, _, notes in core(full):
        assert "Say:" in notes and "?" in notes and len(notes) > 200, title
    assert "95% interval 175 to 291" in core(full)[1][2]
    assert "None" not in " ".join(notes for *_, notes in core(full))


@pytest.mark.parametrize("target, said", [("local", True), ("gcp", False)])
def test_both_pages_say_at_once_that_google_cloud_was_not_used_while_that_is_so(
        tmp_path, target, said):
    (tmp_path / "summary.json").write_text(json.dumps({**FULL, "target": target}))
    report.slides(tmp_path)
    header = soup(report.build(tmp_path)).header.get_text()
    for first in (core(tmp_path)[0][1], header):
        assert ("Not yet run on Google Cloud" in first) == said
    assert ("synthetic" in header) == said


@pytest.mark.parametrize("servers, usd", [(1, "1,825"), (2, "2,190")])
def test_with_both_hourly_prices_a_month_is_summed(tmp_path, monkeypatch, servers, usd):
    prices = {"usd_per_bigtable_node_hour": 2, "usd_per_serving_node_hour": 0.5}
    serve = {"min_replica_count": servers, "max_replica_count": servers}
    monkeypatch.setattr(facts, "settings_of", lambda run: config.load(
        target="local", overrides={"costs": prices, "serve": serve}))
    (tmp_path / "summary.json").write_text(json.dumps(FULL))
    report.build(tmp_path)
    report.slides(tmp_path)
    assert f"at least ${usd} a month (730 hours)" in core(tmp_path)[6][1]  # 1 of 1 to 2 nodes
    assert f"최소 {usd}달러" in (tmp_path / "요약.md").read_text(encoding="utf-8")


def test_the_last_core_slide_asks_for_what_config_names(tmp_path, monkeypatch):
    decision = {"pilot": "8 weeks, one country", "budget_cap_usd": 12000, "data": None,
                "team": None, "decide_by": date(2027, 3, 31)}
    monkeypatch.setattr(facts, "settings_of", lambda run: config.load(
        target="local", overrides={"decision": decision}))
    (tmp_path / "summary.json").write_text(json.dumps(FULL))
    report.slides(tmp_path)
    title, text, _ = core(tmp_path)[-1]
    assert title == "We ask you to decide 5 points; 2 of them are still to be filled in"
    assert "Pilot 8 weeks, one country Budget cap $12,000 for the whole pilot" in text
    assert "Decide by 31 Mar 2027" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("to be filled in") == 3


def test_a_run_without_figures_has_the_core_slides_too(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(BARE))
    report.slides(tmp_path)
    assert len(core(tmp_path)) == 8
    assert ["Not measured in this run" in text for _, text, _ in core(tmp_path)] == [
        False, True, True, False, True, True, True, False]


def test_no_schedule_in_the_form_of_cron_is_on_a_slide(full):
    assert settings_cron() not in soup(full / "slides.html").get_text()


def settings_cron():
    return config.load(target="local").feature_view.sync_cron


def appendix(page):
    """(heading, what is shown, notes) of the slides that come from the notebooks."""
    return [(slide.h2.get_text(), slide.select_one(".body"), slide.aside.get_text(" ", strip=True))
            for slide in soup(page).select(".slide.appendix") if slide.select("[data-source]")]


def test_the_appendix_has_one_chart_or_table_of_a_tagged_cell_on_each_slide(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(FULL))
    rows = "".join(f"<tr><td>{n}</td></tr>" for n in range(30))
    picture = chart("Two", ["deck"]).outputs[0]
    nbformat.write(new_notebook(cells=[
        words("# 1 · T: t"), words("## Head\n\nProse for the notes.", ["deck"]),
        code("both", [html(TABLE), picture, picture, printed("log")], ["deck"]),
        code("long", [html(f"<table>{rows}</table>")], ["deck"]), chart("not tagged"),
    ]), tmp_path / "01_data.ipynb")
    first, second, third = appendix(report.slides(tmp_path))
    assert [first[0], second[0], third[0]] == ["Head"] * 3
    assert "Prose for the notes." in first[2] and "report.html" in third[2]
    assert all(len(shown.select("img")) == 1 and not shown.select("table, pre, p")
               for _, shown, _ in (first, second))
    assert len(third[1].select("tr")) == report.LONGEST and not third[1].select("img")


def test_slides_are_never_too_many(tmp_path):
    many = [chart(f"finding {n}", ["deck"], "slide") for n in range(60)]
    nbformat.write(new_notebook(cells=[words("# 1 · T: t"), *many]), tmp_path / "01_data.ipynb")
    (tmp_path / "summary.json").write_text(json.dumps(FULL))
    read = soup(report.slides(tmp_path))
    assert len(read.select(".slide")) == report.MOST_SLIDES
    assert "finding 0" in str(read)


def test_untagged_notebooks_give_their_charts_as_slides(folder):
    read = soup(report.slides(folder))
    assert len(read.select(".slide")) == report.OWN_SLIDES + 3
    assert "Another finding" in str(read)


def test_a_notebook_that_cannot_be_read_costs_only_itself(folder, capsys):
    (folder / "03_training_set.ipynb").write_text("{")
    assert "The data" in soup(report.build(folder)).get_text()
    assert "03_training_set.ipynb is left out" in capsys.readouterr().err


def test_both_pages_of_a_run_read_its_notebooks_once_and_are_as_those_made_alone(
        folder, monkeypatch):
    write_notebooks(folder, ["deck"])
    alone = [page.read_bytes() for page in (report.build(folder), report.slides(folder))]
    reads, read = [], report.read_books
    monkeypatch.setattr(report, "read_books", lambda *asked: reads.append(asked) or read(*asked))
    report.after_run(folder)
    assert len(reads) == 1
    assert [(folder / f"{name}.html").read_bytes() for name in ("report", "slides")] == alone


def test_a_finished_run_is_not_failed_by_its_report(folder, monkeypatch):
    monkeypatch.setattr(report.facts, "read", lambda folder: 1 / 0)
    lines = report.after_run(folder)
    assert len(lines) == 2 and all("the run itself is complete" in line for line in lines)


def test_it_is_a_command(full, tmp_path, capsys):
    assert report.main(["--run", str(full)]) == 0
    assert report.main(["slides", "--run", str(full)]) == 0
    assert "report.html: " in capsys.readouterr().out
    assert report.main(["--run", str(tmp_path / "none")]) == 1
    assert "./run_all.sh makes a run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        report.main(["poster"])
    assert refused.value.code == 2


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)


def browse(page, profile):
    """(the page as the browser built it, what its console said), with no network."""
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return BeautifulSoup(done.stdout, "html.parser"), said


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_browser_without_network_shows_both_and_complains_of_nothing(full, tmp_path):
    shown, said = browse(full / "report.html", tmp_path)
    assert len(shown.select(".finding")) == 4 and shown.find("img") and said == []
    assert "299 orders" in shown.select_one("[data-said]").get_text()  # by the page's script
    shown, said = browse(full / "slides.html", tmp_path)
    slides = shown.select(".slide")  # numbered by the page's script, which the policy lets run
    place = slides[-1].select_one(".frame")["data-place"]
    assert place == f"{len(slides)} / {len(slides)}" and said == []


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_the_browser_refuses_what_the_pages_do_not_hold(full, tmp_path):
    text = (full / "report.html").read_text(encoding="utf-8")
    page = tmp_path / "spoilt.html"
    page.write_text(text.replace("</main>", '<img src="https://example.com/x.png"></main>'))
    assert len(browse(page, tmp_path / "profile")[1]) == 1
