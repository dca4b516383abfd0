"""The report page of fabricated results: what is on it, what is not, what is hidden; and the page in a real browser."""

import base64
import csv
import io
import json
import os
import pickle
import re
import stat
import time
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import report
from medrep import contract, stamps, storage
from medrep.errors import UserError
from medrep.report import charts
from medrep.report.cells import to_cell
from medrep.report.disclosure import CountRegistry
from medrep.report.sections import answer, coverage, flows, pipeline, sites, training
from medrep.tables import LABELS, RECORDS, REJECTS

COMMANDS = (
    "preprocessing/persons.py",
    "preprocessing/site_report.py",
    "preprocessing/audit.py",
    "preprocessing/labels.py",
    "experiments/finetune.py",
    "experiments/pretrain.py",
    "experiments/compare.py",
    "experiments/vocabulary_coverage.py",
    "representation/evaluate.py",
    "representation/run.sh",
)


@pytest.fixture(scope="module", autouse=True)
def charts_drawn_once():
    """A chart of the same data is drawn once for all the pages of this file: drawing takes nine tenths of a page's time."""
    drawn = {}

    def once(draw):
        def chart(*args, **kwargs):
            key = draw.__name__, pickle.dumps((args, kwargs))
            if key not in drawn:
                drawn[key] = draw(*args, **kwargs)
            return drawn[key]

        return chart

    with pytest.MonkeyPatch.context() as patch:
        for draw in (charts.line_chart, charts.forest_chart, charts.bar_chart):
            patch.setattr(charts, draw.__name__, once(draw))
        yield drawn


def page(*arguments) -> str:
    for file in (contract.summary_file(), contract.comparison_file()):  # which tests here write other figures into
        storage.stamp_path(file).unlink(missing_ok=True)
    report.main([*arguments])
    return contract.report_file().read_text(encoding="utf-8")


class Texts(HTMLParser):
    """The page as people read it: texts, alternative texts among them, and its headings, links, ids and tables."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.headings, self.links, self.ids, self.open, self.tags = [], [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.tags.append((tag, of))
        self.open.append(tag)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if "id" in of:
            self.ids.append(of["id"])
        if tag == "a":
            self.links.append(of["href"])
        self.texts += [of[name] for name in ("alt", "aria-label") if name in of]

    def handle_data(self, text):
        if self.open and self.open[-1] in ("style", "script"):
            return
        if text.strip():
            self.texts.append(" ".join(text.split()))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    @property
    def text(self):
        return "\n".join(self.texts)


# ---- the content --------------------------------------------------------------------------------------------------


def test_everything_is_on_the_page(at_study):
    html = page()
    texts = Texts(html)
    for said in (
        "behrt medrep",
        "logreg tokens",
        "RA at ehrshot",
        "share of events",
        "95 % interval",
        "0.945",
        "High ×2, Low",
        "0123456789abcdef",
        "hidden_size: 768",
        "AUROC alone",
        "race: b",
        "labelled prediction points",
        "not still in at the prediction time",
        "Rank correlation between seeds",
        "top less controls as frequent",
        "2 of 18 ratings could not be read",
    ):
        assert said in texts.text, said
    missing = [text for text in texts.texts if "not run" in text]
    assert missing == ["Features of RA: not run yet. From codes/, this would:"]
    assert not re.search("Missing|None|nan", re.sub(r"\w+None|None\w+", "", texts.text))
    assert len(re.findall("<svg viewBox", html)) >= 22 and html.count("data:image/png") == 1
    assert len(html) < 2_000_000


def test_the_page_is_whole_and_asks_for_nothing(at_study):
    html = page()
    texts = Texts(html)
    assert len(texts.ids) == len(set(texts.ids))
    assert all(link[1:] in texts.ids if link.startswith("#") else link.startswith("data:text/csv;") for link in texts.links)
    assert texts.headings[0] == 1 and texts.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(texts.headings, texts.headings[1:], strict=False))
    for tag, of in texts.tags:
        assert tag not in ("link", "iframe", "object", "base") and of.get("src", "data:").startswith("data:")
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", html)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
    assert {a or b for a, b in used} <= set(texts.ids)
    for tag, of in texts.tags:
        if tag == "svg" and of.get("role") == "img":
            assert set(of["aria-labelledby"].split()) <= set(texts.ids)
        else:
            assert tag != "svg" or of.get("aria-hidden") == "true"


def test_one_input_gives_one_page(at_study, charts_drawn_once):
    first = page()
    charts_drawn_once.clear()
    contract.report_file().unlink()
    assert page() == first


def test_what_is_absent_says_what_would_make_it(root):
    html = page()
    texts = Texts(html)
    for command in COMMANDS:
        assert command in texts.text, command
        assert (contract.REPOSITORY / "codes" / command).exists()
    assert texts.text.count("not run yet") >= 12
    sections = re.findall(r'<li><a href="#([^"]+)">[^<]+</a>( <span class="todo">not run</span>)?', html)
    assert [name for name, todo in sections if not todo] == ["road", "settings"]
    assert not re.search(r">0</td>", re.search("<caption>Rows at every stage.*?</table>", html, flags=re.S)[0])  # nothing was read, nor rejected
    assert not re.search("<table>\\s*<caption>Tables of", html)


@pytest.mark.parametrize(
    "gone", ["comparison.csv", "summary.csv", "representation/quality.csv", "coverage_mimic_ehrshot.csv", "coverage_auroc_mimic_ehrshot.csv"]
)
def test_any_part_may_be_absent(at_study, gone):
    (at_study / "results" / gone).unlink()
    assert "not run yet" in page()


def test_without_ratings_the_command_is_shown(at_study):
    folder = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    contract.rating_files(folder, "mimic")["ratings"].unlink()
    assert "experiments/medgemma.py --rep medrep --outcome MT --seed 100 --ex mimic" in page()


@pytest.mark.parametrize(
    ("gpu", "device", "rating"), [(True, "0", "CUDA_VISIBLE_DEVICES=0 python"), (False, "cpu", "--base-url http://HOST:PORT/v1")]
)
def test_commands_name_a_device_that_is_here(at_study, monkeypatch, gpu, device, rating):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    folder = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    contract.rating_files(folder, "mimic")["ratings"].unlink()
    texts = Texts(page()).texts
    (finetune,) = [text for text in texts if text.startswith("python experiments/finetune.py")]
    (medgemma,) = [text for text in texts if "experiments/medgemma.py" in text]
    assert f"-d {device} --model behrt" in finetune and rating in medgemma
    assert ("CUDA" in medgemma) == gpu and not any("--gpu-devices" in text for text in texts)


def test_one_is_said_as_one(at_study):
    """A run of its own settings, one suspect, one seed, one rating."""
    settings = contract.pretraining_folder("mimic", "behrt", "none") / "config.yaml"
    settings.write_text(settings.read_text().replace("hidden_size: 768", "hidden_size: 64"))
    change(contract.rating_files(contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100), "mimic")["summary"], repeats=1)
    audit = json.loads(contract.audit_file("mimic").read_text())
    for result in audit.values():
        for row in [*result["best_tokens"], *result["open_stays"]]:
            row["suspect"] = False
    audit["MT"]["best_tokens"][0]["suspect"] = True
    storage.write_json(contract.audit_file("mimic"), audit)
    table = pd.read_csv(contract.comparison_file(), keep_default_na=False, dtype=str)
    table.assign(seeds="1").to_csv(contract.comparison_file(), index=False)
    text = Texts(page()).text
    assert "pretraining: behrt none (1 run)" in text and "Rated once each by gemma" in text
    assert "1 suspect: look into it before" in text and "MT at mimic, of one seed" in text
    assert not re.search(r"\b1 (runs|suspects|seeds|times)\b", text)


def test_a_run_that_was_given_says_what_it_is(at_study):
    assert "--evaluate-only" not in page()
    table = pd.read_csv(contract.comparison_file(), keep_default_na=False, dtype=str)
    pd.concat([table, table[table.variant == ""].assign(variant="evaluated-0a1b2c3d")]).to_csv(contract.comparison_file(), index=False)
    text = Texts(page()).text
    assert "behrt medrep evaluated-0a1b2c3d" in text and text.count("a finished run that finetune.py --evaluate-only was given") == 1


def test_the_papers_figures_are_shown_and_explained_only_where_there_are_any(at_study):
    table = pd.read_csv(contract.comparison_file(), keep_default_na=False, dtype=str)
    with_mean = pd.concat([table, table[table.outcome == "MT"].assign(outcome="LLOS")])  # the third of the outcomes of means
    with_mean.to_csv(contract.comparison_file(), index=False)
    text = Texts(page()).text
    assert "Paper, a diamond in the answer's drawings" in text and "paper, internal" in text and "The paper's means over external hospitals" in text
    with_mean.assign(paper="").to_csv(contract.comparison_file(), index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDREP_CONFIGS", "configs/demo")
        text = Texts(page()).text
    assert "Mean AUROC over MT, LLOS, RA" in text and "paper" not in text.lower()


def test_results_of_an_earlier_version_are_no_traceback(at_study):
    file = contract.comparison_file()
    pd.read_csv(file, keep_default_na=False, dtype=str).drop(columns=["calibration_slope_low", "calibration_slope_high"]).to_csv(file, index=False)
    file = contract.rating_files(contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100), "mimic")["summary"]
    storage.write_json(file, {name: value for name, value in json.loads(file.read_text()).items() if name != "rank_correlation_n"})
    assert "Rating of these features at mimic: not run yet" in Texts(page()).text


def test_answers_that_nobody_could_read_are_no_table_of_nothing(at_study):
    file = contract.rating_files(contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100), "mimic")["summary"]
    change(file, ratings=18, unparsed=18)
    texts = Texts(page())
    assert "Rated by gemma at mimic: 18 of 18 ratings could not be read." in texts.text and "How features at mimic were rated" not in texts.text


def test_what_is_older_than_what_it_came_from_says_so(at_study):
    """Tests after the comparison, features after their rating, and predictions of a seed that are gone."""
    file = contract.comparison_file()
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    table[table.outcome == "MT"].to_csv(file, index=False)
    folder = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    contract.predictions_file(contract.finetuning_folder("mimic", "behrt", "none", "MT", 200), "ehrshot").unlink()
    files = contract.rating_files(folder, "mimic")
    assert "have changed since they were rated" not in page()
    stamps.Stamp(files["summary"], inputs=[contract.features_file(folder, "mimic")]).record()
    assert "have changed since they were rated" not in page()
    with open(contract.features_file(folder, "mimic"), "a") as features:
        features.write("\n")
    texts = Texts(page())
    assert "The comparison of RA with all arms: not run yet" in texts.text
    assert "The predictions of some seeds are not there, of behrt none at ehrshot: finetune.py writes them again." in texts.text
    assert "These features have changed since they were rated" in texts.text


def test_results_of_data_that_changed_since_stand_under_a_warning(at_study, capsys):
    """Of the summary, or where that is new of the comparison; the page is written in any case."""
    folder, summary = contract.trajectories_folder("ehrshot"), pd.read_csv(contract.summary_file(), keep_default_na=False, dtype=str)
    summary.assign(data=[stamps.fingerprint(folder) if place == "ehrshot" else "" for place in summary.tested_on]).to_csv(
        contract.summary_file(), index=False
    )
    assert "out of date" not in page()
    summary.assign(data=["older" if row.tested_on == "ehrshot" and row.outcome == "MT" else "" for row in summary.itertuples()]).to_csv(
        contract.summary_file(), index=False
    )
    capsys.readouterr()
    words = "MT at ehrshot (usedata/ehrshot/trajectories) changed since models were tested there: to make these figures anew, run the same"
    assert f"Some of these results are out of date. {words} finetune.py commands." in unescape(page().partition("<nav")[0])
    assert f"warning: some of these results are out of date: {words}" in capsys.readouterr().out
    summary.to_csv(contract.summary_file(), index=False)
    table = pd.read_csv(contract.comparison_file(), keep_default_na=False, dtype=str)
    table.assign(data=["older" if place == "ehrshot" else "" for place in table.tested_on]).to_csv(contract.comparison_file(), index=False)
    assert "changed since arms were compared there: python experiments/compare.py" in unescape(page().partition("<nav")[0])


def test_a_hospital_that_was_tested_and_has_no_features_is_named(at_study, capsys):
    folder = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    storage.write_json(contract.metrics_file(folder, "ehrshot"), [])
    assert "Features at ehrshot: not run yet" in Texts(page()).text
    out = capsys.readouterr().out
    assert "Features at ehrshot; Features of RA" in out and '"not_run": 2' in out


def test_a_note_stands_at_the_top_and_a_page_that_hides_nothing_says_so(at_study, monkeypatch):
    assert 'class="warning"' not in page().partition("<nav")[0]
    assert stat.S_IMODE(contract.report_file().stat().st_mode) & 0o044
    top = page("--set", "report.small_count=1", "--set", "report.note=All <b>invented</b>.").partition("<nav")[0]
    assert "All &lt;b&gt;invented&lt;/b&gt;." in top and "Counts of 1 and more are shown: this page is for those who may see the data." in top
    assert stat.S_IMODE(contract.report_file().stat().st_mode) == 0o600
    with pytest.raises(UserError, match="report.small_count is 0: it must be 1, which hides nothing, or more"):
        page("--set", "report.small_count=0")
    monkeypatch.setenv("MEDREP_CONFIGS", "configs/demo")
    assert "Both hospitals are invented" in page().partition("<nav")[0]


def test_a_file_that_broke_off_and_a_root_that_is_not_there_are_named(at_study, monkeypatch):
    file = contract.site_file("mimic")
    file.write_text(file.read_text()[:50])
    with pytest.raises(UserError, match="usedata/mimic/site.json is not whole JSON: remove it, and the stage that writes it does so anew"):
        page()
    monkeypatch.setattr(contract, "ROOT", at_study / "nowhere")
    with pytest.raises(UserError, match="MEDREP_ROOT is .*nowhere, and there is no such folder"):
        page()


def test_arms_that_were_trained_elsewhere_say_where(at_study):
    file = contract.comparison_file()
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    table.loc[(table.model == "logreg") & (table.tested_on == "ehrshot"), "trained_on"] = "ehrshot"
    table.to_csv(file, index=False)
    rows = re.findall('<th scope="row">(.*?)</th>', re.search("<caption>MT at ehrshot.*?</table>", page(), flags=re.S)[0])
    assert "logreg tokens @ehrshot" in rows and "behrt medrep" in rows


def test_everything_is_escaped(at_study, evil):
    html = page()
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert html.count("<script>") == 1 and evil in Texts(html).text.replace("\n", " ")


# ---- the answer ------------------------------------------------------------------------------------------------------


def sections_of(html) -> dict[str, str]:
    """{id: the HTML of a section}, in the order of the page."""
    parts = re.findall(r'<section aria-labelledby="([^"]+)">(.*?)</section>', html, flags=re.S)
    return dict(parts)


def facts_of(html) -> dict[str, list[str]]:
    """{what is asked: [the answer, what it rests on]} of the answer."""
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>(?:<dd class=\"more\">(.*?)</dd>)?", sections_of(html)["answer"])
    return {unescape(name): [unescape(value), unescape(more)] for name, value, more in found}


def comparison_rows():
    return pd.read_csv(contract.comparison_file(), keep_default_na=False, dtype=str)


def test_the_answer_comes_first_and_the_road_after_it(at_study):
    ids = list(sections_of(page()))
    assert ids[0] == "answer" and ids[-2:] == ["road", "settings"] and set(ids[1:4]) == {"comparison", "curves", "coverage"}


def test_the_best_arm_is_that_of_the_table_with_its_difference_to_the_simplest(at_study):
    table, facts = comparison_rows(), facts_of(page())
    for hospital, name in (("mimic", "MT: best at home, mimic"), ("ehrshot", "MT: best elsewhere, ehrshot")):
        rows = [row for row in table.to_dict("records") if row["outcome"] == "MT" and row["tested_on"] == hospital]
        best = rows[0]
        for row in rows[1:]:  # of equals the first
            if float(row["auroc"]) > float(best["auroc"]):
                best = row
        value, more = facts[name]
        assert value == " ".join(filter(None, [best["model"], best["rep_type"], best["variant"]]))
        assert f"AUROC {float(best['auroc']):.3f} (" in more and "over logreg tokens, the simplest" in more
        assert f"{float(best['over_simplest']):+.3f}".replace("-", "−") in more
        tested, positive = (float(best[name]) for name in ("n", "positives"))
        assert 11 <= positive < tested and more.endswith(f" Tested at {tested:,.0f} prediction points, {positive:,.0f} of them with the outcome.")
        assert f"(p {float(best['over_simplest_p_holm']):.3f}, corrected for 5 arms)" in more and "chance may explain it" in more


def change_comparison(**columns):
    """Of MT at mimic: {column: {row's arm: value}}."""
    table = comparison_rows()
    for column, values in columns.items():
        for (model, rep, variant), value in values.items():
            chosen = (table.outcome == "MT") & (table.tested_on == "mimic")
            table.loc[chosen & (table.model == model) & (table.rep_type == rep) & (table.variant == variant), column] = value
    table.to_csv(contract.comparison_file(), index=False)


def test_the_answers_counts_are_of_one_label(at_study):
    change_comparison(auroc=dict.fromkeys(map(tuple, comparison_rows()[["model", "rep_type", "variant"]].to_numpy().tolist()), ""))
    value, more = facts_of(page())["MT: best at home, mimic"]
    assert value == "unknown" and more.startswith("No arm's AUROC could be computed there. Tested at ")
    row = comparison_rows().iloc[0]
    assert "Tested at" in str(answer.add_counts("x", CountRegistry(11), "mimic", "MT", row))
    flow = contract.flow_file("mimic", "MT")
    storage.write_json(flow, json.loads(flow.read_text()) | {"labelled": {"Gout": 30}})  # as of phenotypes, of which row["positives"] is the sum
    assert answer.add_counts("x", CountRegistry(11), "mimic", "MT", row) == "x"
    flow.unlink()
    assert answer.add_counts("x", CountRegistry(11), "mimic", "MT", row) == "x"


def test_of_few_positives_the_answer_says_that_they_are_few(at_study):
    table = comparison_rows()
    table.loc[table.outcome == "MT", "positives"] = "7.0"
    table.to_csv(contract.comparison_file(), index=False)
    found = facts_of(page())["MT: best at home, mimic"][1]
    assert " prediction points, <11 of them with the outcome." in found and " 7 " not in found


def test_how_sure_the_answer_is_stands_in_words(at_study):
    medrep = ("behrt", "medrep", "")
    change_comparison(auroc={medrep: "0.95"}, over_simplest_p_holm={medrep: "0.0002"})
    assert "more than chance explains (p <.001, corrected for 5 arms)" in facts_of(page())["MT: best at home, mimic"][1]
    change_comparison(over_simplest_p_holm={medrep: ""})
    assert "too few cases to say whether that is chance" in facts_of(page())["MT: best at home, mimic"][1]
    change_comparison(auroc={("logreg", "tokens", ""): "0.97"})
    value, more = facts_of(page())["MT: best at home, mimic"]
    assert value == "logreg tokens" and "It is the simplest arm: none is above it. Tested at " in more
    table = comparison_rows()
    table[(table.model != "logreg") & (table.rep_type != "none")].to_csv(contract.comparison_file(), index=False)
    assert "No simple arm was tested to compare it with." in facts_of(page())["MT: best at home, mimic"][1]


def test_what_no_model_of_home_is_can_not_be_the_best(at_study):
    """A clinical score, and a model that was trained where it is tested."""
    table = comparison_rows()
    more = [
        table.iloc[[0]].assign(model="APACHE", rep_type="score", trained_on="", auroc="0.99"),
        table.iloc[[0]].assign(trained_on="ehrshot", auroc="0.98"),
    ]
    pd.concat([table, *more]).to_csv(contract.comparison_file(), index=False)
    html = page()
    outcome, hospital = table.iloc[0][["outcome", "tested_on"]]
    (best,) = [value for name, (value, _) in facts_of(html).items() if name.startswith(f"{outcome}: ") and name.endswith(hospital)]
    forest = re.search(f"<caption>{outcome}: AUROC of every arm.*?</table>", html, flags=re.S)[0]
    assert "APACHE" not in best and "0.990" in forest and "@ehrshot" in forest


def test_all_arms_are_in_the_forest_beside_the_numbers(at_study):
    html = page()
    forest = re.search("<caption>MT: AUROC of every arm.*?</table>", html, flags=re.S)[0]
    table = comparison_rows()
    rows = table[table.outcome == "MT"]
    assert len(re.findall('<th scope="row">', forest)) == 6 and len(re.findall("<circle", forest)) == len(rows) == 12
    limits = re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%" y1="10"', forest)
    points = re.findall(r'<circle cx="([\d.]+)%"', forest)
    numbers = re.findall(r"<b>([\d.]+)</b> <span class=\"more\">([\d.]+) to ([\d.]+)</span>", forest)
    assert len(numbers) == 12
    for (low, high), middle in zip(limits, points, strict=True):
        assert 0 <= float(low) <= float(middle) <= float(high) <= 100
    # one axis: places are a line in the numbers, the same for every row
    places, values = np.array(points, float), np.array([value for value, *_ in numbers], float)
    slope, start = np.polyfit(values, places, 1)
    assert np.abs(slope * values + start - places).max() < 0.5  # a thousandth of an AUROC
    values = np.array([row[1:] for row in numbers], float)
    assert np.abs(slope * values + start - np.array(limits, float)).max() < 0.5
    assert forest.count('class="best"') == 2


def test_a_comparison_of_an_earlier_version_says_what_is_not_known(at_study):
    table = comparison_rows()
    table[[name for name in table if "simplest" not in name]].to_csv(contract.comparison_file(), index=False)
    assert "is not known: compare.py tells it" in facts_of(page())["MT: best at home, mimic"][1]


def test_the_share_that_can_be_read_is_that_of_the_file(at_study):
    value, more = facts_of(page())["Read of ehrshot's events"]
    assert value == "93.3% by vectors" and more == "As codes that mimic has, too: 66.7%, by an ancestor 10.0% more."
    file = contract.coverage_files("mimic", "ehrshot")["shares"]
    table = pd.read_csv(file)
    for lost, words in ((0, "all by vectors"), (7, "nearly all by vectors")):
        table.loc[table.kind == "lost", "events"] = lost
        table.to_csv(file, index=False)
        assert facts_of(page())["Read of ehrshot's events"][0] == words


def edit_audit(hospital="mimic", **rows):
    """Lay values over the first row of each of these lists of MT."""
    audit = json.loads(contract.audit_file(hospital).read_text())
    for name, values in rows.items():
        audit["MT"][name][0].update(values)
    storage.write_json(contract.audit_file(hospital), audit)


def test_the_audits_verdict_stands_in_the_answer(at_study):
    assert facts_of(page())["Leakage audit"][0] == "nothing suspect"
    edit_audit(first_days={"suspect": True}, open_domains={"suspect": True})
    html = page()
    assert facts_of(html)["Leakage audit"][0] == "2 suspects at mimic" and '<div class="look"><dt>Leakage audit' in html
    leakage = sections_of(html)["leakage"]
    assert "MT: drug events that are known by their day are nearly all of the visit&#39;s first" in leakage
    assert "MT: condition events before the prediction time stand, more than half of them, at the very start" in leakage
    edit_audit(open_stays={"suspect": True})  # its type says more than the domain
    html = page()
    assert facts_of(html)["Leakage audit"][0] == "2 suspects at mimic" and "name 32817 in billing_types" in html
    audit = json.loads(contract.audit_file("ehrshot").read_text())
    audit["MT"]["best_tokens"] = []
    storage.write_json(contract.audit_file("ehrshot"), audit)
    contract.audit_file("mimic").unlink()
    html = page()
    assert "no code could be tested at ehrshot for MT, which too few have, or lack" in facts_of(html)["Leakage audit"][1]
    assert facts_of(html)["Leakage audit"] == ["nothing suspect", facts_of(html)["Leakage audit"][1]] and "not audited: mimic" in html
    contract.audit_file("ehrshot").unlink()
    assert facts_of(page())["Leakage audit"][0] == "not run"


def test_domains_and_days_of_the_audit_are_on_the_page(at_study):
    leakage = sections_of(page())["leakage"]
    rows = {
        caption: re.findall(r"<td[^>]*>(.*?)</td>", re.search(rf"<caption>{caption}.*?</table>", leakage, flags=re.S)[0])[:5]
        for caption in ("Events before a prediction time at mimic, by domain", "Events known by their day at mimic")
    }
    assert list(rows.values()) == [["MT", "900", "40", "4.4%", "fine"], ["MT", "800", "40", "5.0%", "fine"]]
    audit = json.loads(contract.audit_file("mimic").read_text())
    storage.write_json(
        contract.audit_file("mimic"), {o: {k: v for k, v in r.items() if k not in ("first_days", "open_domains")} for o, r in audit.items()}
    )
    assert "The audit of mimic by domain and by day: not run yet" in Texts(page()).text


def test_concepts_are_called_by_their_names(at_study):
    html = page()
    texts = Texts(html)
    for said in (
        "visits: Outpatient Visit",
        "visits: Emergency Room and Inpatient Visit",
        "visits of concept 581477, which data/concepts does not name",
    ):
        assert said in texts.texts
    assert not {"9202", "262", "32817"} & set(re.findall(r"\d+", texts.text))
    site = json.loads(contract.site_file("mimic").read_text())
    for kind in site["visits"]["by_concept"]:
        kind["name"] = "Visit"
    site["units"][0]["name"], site["units"][1]["name"] = "milligram per deciliter", "4118"
    storage.write_json(contract.site_file("mimic"), site)
    edit_audit(best_tokens={"token": "3004410_7", "name": "Hemoglobin A1c"})
    texts = Texts(page()).texts
    assert "visits: Visit (concept 9202)" in texts and "visits: Visit (concept 581477)" in texts  # two kinds are not one row
    assert "milligram per deciliter" in texts and "concept 4118, which data/concepts does not name" in texts
    assert "Hemoglobin A1c (8th decile)" in texts


# ---- tables as files ---------------------------------------------------------------------------------------------------


def files_of(html) -> dict[str, list[list[str]]]:
    """{name: lines} of all tables that the page lets one save."""
    found = re.findall(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html)
    return {name: list(csv.reader(io.StringIO(base64.b64decode(text).decode("utf-8-sig")))) for name, text in found}


def plain(text) -> str:
    """A cell of the page as the file has it; of an interval the value."""
    text = text.split(" (")[0] if re.fullmatch(r"\S+ \(\S+ to \S+\)", text) else text
    number = text.replace(",", "").replace("−", "-")
    return number.lstrip("+") if re.fullmatch(r"[+-]?[\d.]+%?", number) else text


def test_every_table_can_be_saved_as_it_is_shown(at_study):
    html = page()
    files, tables = files_of(html), re.findall(r"<table>\n<caption>(.*?)</caption>(.*?)</table>", html, flags=re.S)
    assert len(files) == len(set(files)) and len(tables) > 15 and len(files) == len(tables) + 2  # and the forests
    for caption, table in tables:
        lines = files["".join(c if c.isascii() and c.isalnum() else "-" for c in unescape(caption)) + ".csv"]
        shown = [
            [unescape(cell.replace("<wbr>", "")) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall("<tr>(.*?)</tr>", table)[1:]
        ]
        headings = [unescape(text) for text in re.findall(r"<button[^>]*>(.*?)</button>", table)]
        kept = [i for i, name in enumerate(lines[0]) if not name.endswith((", 95 % low", ", 95 % high"))]
        assert [lines[0][i] for i in kept] == [name.removesuffix(" (95 %)") if name not in lines[0] else name for name in headings], caption
        assert [[line[i] for i in kept] for line in lines[1:]] == [[plain(cell) for cell in row] for row in shown], caption


def test_the_files_hide_what_the_page_hides(root, write_study):
    write_study(root, small=7)
    cells = [cell for lines in files_of(page()).values() for line in lines for cell in line]
    assert "<11" in cells and "≥11" in cells
    for leak in ("993", "393", "193", "493", f"{7 / 5007:.1%}", "1.8%", "0.6123", "0.612", f"{7 / 2807:.1%}"):
        assert leak not in cells, leak
    assert cells.count("7") == cells.count("14") == 2  # ranks, in the table of features and in that of the first
    assert "7" in [cell for lines in files_of(page("--set", "report.small_count=1")).values() for line in lines for cell in line[2:]]


# ---- what is hidden -------------------------------------------------------------------------------------------------


def test_no_small_count_is_on_the_page_nor_can_be_computed(root, write_study):
    """Every count that a stage could give as 7 stands on the page as <11, and the sums around it have a second unknown."""
    write_study(root, small=7)
    html = page()
    texts = Texts(html)
    assert "<11" in texts.text and "≥11" in texts.text
    orders = [float(order) for order in re.findall(r'data-order="([^"]*)"', html)]
    for leak in (7, 993, 393, 193, 493, 14):  # a small count, and what it is the difference of
        found = re.findall(rf"(?<![\w.,]){leak}(?![\w.,%])", texts.text)
        ranks = 2 if leak in (7, 14) else 0  # in the table of features, and in the table of the first features
        assert len(found) == orders.count(leak) == ranks, leak
    for leak in (f"{7 / 5007:.1%}", "1.8%", "0.6123", "0.612", f"{7 / 2807:.1%}"):  # shares of small counts, and what is computed of them
        assert leak not in texts.text.split("\n"), leak
    open_page = Texts(page("--set", "report.small_count=1"))
    assert "<11" not in open_page.text and "5,007" in open_page.text and "7" in open_page.texts


def shown(counts, *sections) -> list[str]:
    """Every cell of the sections' tables and every box of their flows, once counts are protected."""
    counts.protect()

    def texts_of(part):
        if part.kind == "flow":
            return [str(n) for step in part.steps for n in (step.count, *(n for _, n in step.left_out))]
        inside = [text for inner in getattr(part, "parts", ()) for text in texts_of(inner)]
        return inside + [to_cell(value).text for row in getattr(part, "rows", ()) for value in row]

    return [text for section in sections for part in section.parts for text in texts_of(part)]


def change(file, **values):
    """Lay values over a file of JSON, folder by folder."""

    def over(old, new):
        return {**old, **{name: over(old[name], value) if isinstance(value, dict) and name in old else value for name, value in new.items()}}

    file.write_text(json.dumps(over(json.loads(file.read_text()), values)))


def table_of(table, rows, **names):
    table.at(**names).mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"row": range(rows)}).to_parquet(table.at(**names) / "00000.parquet")


def test_rows_kept_are_events_and_hidden_as_both(at_study):
    """4,107 rows = 4,100 kept + 7 without a concept, and the kept ones are the events of a domain."""
    change(
        contract.site_file("mimic"),
        tables={"condition_occurrence": {"read": 4107, "kept": 4100, "left out": {"no concept": 7, "under age": 0}}},
        domains={"condition": {"events": 4100}},
    )
    texts = shown(counts := CountRegistry(11), sites.build_section(counts, ["mimic"]))
    assert "4,107" in texts and "4,100" not in texts


def test_labelled_rows_are_hidden_on_the_road_as_in_the_flow(at_study):
    """500 admissions = 493 labelled + 7 that were not."""
    change(contract.flow_file("mimic", "MT"), **{"left out": {"not still in at the prediction time": 7}, "labelled": 493})
    table_of(LABELS, 493, hospital="mimic", outcome="MT")
    counts = CountRegistry(11)
    assert "493" not in shown(counts, pipeline.build_section(counts, ["mimic"]), flows.build_section(counts, ["mimic"]))


def test_rejected_rows_add_up_over_tables(at_study):
    """37 rejects on the road = 30 of visits + 7 of persons."""
    for table, n in (("person", 7), ("visit_occurrence", 30)):
        change(contract.site_file("mimic"), tables={table: {"read": 2000 + n, "kept": 2000, "rejected": {"unreadable date": n}}})
    table_of(REJECTS, 37, hospital="mimic", source="person")
    counts = CountRegistry(11)
    texts = shown(counts, pipeline.build_section(counts, ["mimic"]), sites.build_section(counts, ["mimic"]))
    assert not {"30", "37"} <= set(texts)


def test_units_add_up_to_values_and_domains_to_records(at_study):
    """3,100 values = 3,093 mg/dL + 7 of a rare unit; 12,607 records = 4,100 + 4,200 + 4,300 + 7."""
    events = dict(zip(contract.DOMAINS, (4100, 4200, 4300, 7), strict=True))
    change(
        contract.site_file("mimic"),
        units=[{"unit": "mg/dL", "values": 3093, "measurements": 20}, {"unit": "rare", "values": 7, "measurements": 2}],
        domains={name: {"events": n, "with_value": 3100 if name == "measurement" else 0, "without_unit": 0} for name, n in events.items()},
    )
    table_of(RECORDS, 12607, hospital="mimic")
    counts = CountRegistry(11)
    texts = set(shown(counts, pipeline.build_section(counts, ["mimic"]), sites.build_section(counts, ["mimic"])))
    assert not {"3,100", "3,093"} <= texts and not {"12,607", "4,100", "4,200", "4,300"} <= texts


def test_what_is_read_adds_up_over_domains(at_study):
    """50 events that are lost = 43 of conditions + 7 of drugs."""
    table = pd.DataFrame(
        [
            (by, part, "codes", kind, events, 0.5, 10, 0.5)
            for by, part, lost in (("all", "all", 50), ("domain", "condition", 43), ("domain", "drug", 7))
            for kind, events in (("known", 1000 * lost), ("plain", 0), ("ancestor", 100 * lost), ("lost", lost))
        ],
        columns=["by", "part", "reading", "kind", "events", "events_share", "concepts", "concepts_share"],
    )
    table.to_csv(contract.coverage_files("mimic", "ehrshot")["shares"], index=False)
    counts = CountRegistry(11)
    rows = shown(counts, coverage.build_section(counts, "mimic", ["ehrshot"]))
    percent = f"{50 / 55050:.1%}", f"{43 / 47343:.1%}"
    assert sum(text in percent for text in rows) < 2


def test_the_drawing_of_what_is_read_has_no_small_part(at_study):
    """What 7 of 807 events are wide can be measured."""
    file = contract.coverage_files("mimic", "ehrshot")["shares"]
    table = pd.read_csv(file)
    drawings = set()
    for few in (3, 7):
        events = table.kind.map({"known": 500, "own": 500, "plain": 0, "ancestor": 300 + 7 - few, "lost": few})
        table.assign(events=events, events_share=events / 807).to_csv(file, index=False)
        drawings.add(re.search('<svg[^>]*"coverage-ehrshot-events-title.*?</svg>', page(), flags=re.S)[0])
    assert len(drawings) == 1


def test_figures_of_few_positives_do_not_tell_how_many(at_study):
    """A Brier score of chance is p (1 - p), an average precision of chance p, and an AUROC a multiple of 1 / (positives x negatives)."""
    file = contract.comparison_file()
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    chosen = (table.outcome == "MT") & (table.tested_on == "mimic")
    table.loc[chosen, ["positives", "auroc", "auroc_low", "auprc", "brier"]] = ["7.0", "0.77123", "0.61123", "0.11123", "0.01123"]
    table.loc[chosen, "reason"] = "without a (fewer than two persons of a class)"
    table.to_csv(file, index=False)
    html = page()
    rows = re.search("<caption>MT at mimic.*?</table>", html, flags=re.S)[0]
    assert "&lt;11" in rows and "0.77 (0.61 to" in rows and "AUPRC" not in rows and "Brier" not in rows
    assert "0.771" not in html and "0.611" not in html and "fewer than two" not in html and "fewer than 11 persons of a class" in rows


def test_a_cell_is_sorted_by_what_can_be_read(at_study):
    cells = re.findall('data-order="([^"]+)">([−+]?[0-9.,]+)%?(?: \\(|<)', page())
    of_shares = [order for order, text in cells if float(order) != float(text.replace(",", "").replace("−", "-"))]
    assert len(cells) > 300 and all(float(order) < 1 for order in of_shares)  # a Share is of two counts that are shown


def test_medians_and_years_of_few_are_not_shown(at_study):
    change(
        contract.site_file("mimic"),
        persons={"with_records": 8, "median_age": 43.0, "median_events": 4321.0},
        visits={"admissions": 9, "median_days": 77.7},
        domains={"drug": {"events": 3, "first": "2151-01-05 22:38:40"}},
        warnings=[
            "26% of drug_exposure has no concept",
            "3,001 records stand more than 30 years after the middle one",
            "3 of 4 persons",
            "2 of 7 procedure events are told by another row, too (person, concept and time)",
            "3 rows of condition_occurrence have a condition datetime that can't be read",
            "2 rows of death are not believed, as the person's records go on",
        ],
    )
    texts = shown(counts := CountRegistry(11), section := sites.build_section(counts, ["mimic"]))
    assert not {"43", "4,321", "77.7"} & set(texts) and not any("2151" in text for text in texts)
    said = [part.text for part in section.parts[-1].parts if part.kind == "paragraph"]
    assert said == [
        "Warning: some of drug_exposure has no concept",
        "Warning: some records stand more than 30 years after the middle one",
        "Warning: some persons",
        "Warning: some procedure events are told by another row, too (person, concept and time)",
        "Warning: some rows of condition_occurrence have a condition datetime that can't be read",
        "Warning: some rows of death are not believed, as the person's records go on",
    ]


def test_the_unknown_share_of_few_is_not_shown(at_study):
    file = contract.coverage_files("mimic", "ehrshot")["auroc"]
    pd.read_csv(file).assign(n=9, positives=4, share_from=0.313, share_to=0.323).to_csv(file, index=False)
    assert "31% to 32%" not in page() and "31% to 32%" in page("--set", "report.small_count=1")


def test_no_person_and_no_path_of_this_machine_is_on_the_page(at_study):
    html = page()
    texts = Texts(html)
    assert "987654" not in html and "/home/" not in html and str(at_study) not in html and str(contract.REPOSITORY) not in html
    assert "7,007" not in texts.text and "7007" not in texts.text  # the events of one person
    assert "97" not in texts.texts  # the age of the oldest


def test_groups_with_few_persons_have_no_figure(at_study):
    html = page()
    row = re.search(r'<tr><th scope="row"[^>]*>race: &lt;script.*?</tr>', html, flags=re.S)[0]
    assert "too few" in row and re.findall(r"(?<=>)[^<]+(?=</td>)", row)[-2:] == [
        "&lt;11",
        "&lt;11",
    ]  # that none of few has the outcome is telling, too
    other = re.search(r'<tr><th scope="row">race: b.*?</tr>', html, flags=re.S)[0]
    assert re.findall(r"(?<=>)[^<]+(?=</td>)", other)[-2:] == ["≥11", "≥11"]  # or the few could be computed from all


def test_curves_of_few_positives_are_not_drawn(at_study):
    assert 'id="roc-MT-mimic-title"' in page()
    assert 'id="roc-MT-mimic-title"' not in page("--set", "report.small_count=200")


# ---- in a browser ------------------------------------------------------------------------------------------------------


def show(browser, width, scheme="light", height=900):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def screenshot(browser, file):
    """The whole page."""
    size = browser.execute_script("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 16000), "scale": 1}
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip})["data"]
    file.write_bytes(base64.b64decode(data))


@pytest.fixture(scope="module")
def opened(study, browser, tmp_path_factory):
    """The page of the whole study, opened from disk; $MEDREP_REPORT opens another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", study)
        page()
    browser.get((study / "results" / "report" / "index.html").as_uri())
    return browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Where screenshots are kept for a person to look at."""
    folder = tmp_path_factory.mktemp("screenshots") if "MEDREP_SCREENSHOTS" not in os.environ else contract.Path(os.environ["MEDREP_SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_browser_has_nothing_to_complain_of(opened):
    assert opened.title == "MedRep report" and opened.get_log("browser") == []
    requested = opened.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not [name for name in requested if not name.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_fits_its_window_and_every_figure_has_a_size(opened, pictures, width, scheme):
    show(opened, width, scheme)
    opened.execute_script("document.querySelectorAll('details').forEach(box => box.open = true)")
    wide, window = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window == width
    sizes = opened.execute_script(
        "return Array.from(document.querySelectorAll('figure, figure > svg, figure img'), e => { const b = e.getBoundingClientRect();"
        " return [b.width, b.height, b.right] })"
    )
    assert len(sizes) > 40 and all(w > 100 and h > 40 for w, h, _ in sizes)
    hidden = opened.execute_script(
        "return Array.from(document.querySelectorAll('main table, main p, main h2, main h3, main pre'),"
        " e => [e.closest('.scroll, pre') !== null, e.getBoundingClientRect().right]).filter(([box, right]) => !box && right > innerWidth)"
    )
    assert hidden == []
    paper, ink = opened.execute_script("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
    light = [np.mean([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in (paper, ink)]
    assert light[0] > 200 > 100 > light[1] if scheme == "light" else light[0] < 60 < 200 < light[1]
    lines = opened.execute_script("return Array.from(document.querySelectorAll('figure svg path'), e => getComputedStyle(e).stroke)")
    assert len(set(lines)) > 6 and "rgb(1, 1, 1)" not in lines  # no stand-in is left
    opened.execute_script("document.querySelectorAll('details').forEach(box => box.open = false)")
    screenshot(opened, pictures / f"report-{width}-{scheme}.png")
    assert (pictures / f"report-{width}-{scheme}.png").stat().st_size > 20_000


@pytest.mark.parametrize("width, height", [(1280, 900), (375, 812)])
def test_the_first_screen_is_the_answer(opened, width, height):
    show(opened, width, height=height)
    opened.execute_script("scrollTo(0, 0)")
    facts, forest, road = opened.execute_script(
        "return ['.facts', 'table.forest', '#road'].map(name => { const b = document.querySelector(name).getBoundingClientRect();"
        " return [b.top, b.bottom, b.right] })"
    )
    assert 0 < facts[0] < facts[1] < height and forest[0] < (height if width > 600 else 1.4 * height) and road[0] > 3 * height
    assert forest[2] <= width and (width < 600 or forest[1] < height)


@pytest.mark.parametrize("width", [1280, 900, 375])
def test_an_axis_lies_over_its_column(opened, width):
    show(opened, width)
    axes, strips = opened.execute_script(
        "const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.right] }; const table = document.querySelector('table.forest');"
        " return [Array.from(table.querySelectorAll('thead .strip'), box), Array.from(table.tBodies[0].rows, row =>"
        " Array.from(row.querySelectorAll('td'), cell => box(cell.querySelector('.strip'))))]"
    )
    assert len(axes) == 2 and len(strips) == 6
    for row in strips:
        assert np.abs(np.array(row) - np.array(axes)).max() < 2.5 and all(right - left > 60 for left, right in row)


def test_a_table_is_saved_by_a_click(opened, tmp_path):
    from selenium.webdriver.common.by import By

    show(opened, 1280)
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    link = opened.find_element(By.CSS_SELECTOR, "a.csv")
    assert link.accessible_name == "MT: AUROC of every arm, 95 % intervals, as CSV"
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    for _ in range(100):
        if files := [file for file in tmp_path.iterdir() if file.suffix == ".csv"]:
            break
        time.sleep(0.1)
    (file,) = files
    lines = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    assert file.name == "MT--AUROC-of-every-arm--95---intervals.csv" and len(lines) == 7
    assert lines[0][:2] == ["arm", "mimic (home)"] and all(0 < float(line[1]) < 1 for line in lines[1:])
    assert opened.get_log("browser") == []


def test_on_paper_nothing_is_cut_off(opened):
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False})  # A4
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    right, hidden, ink = opened.execute_script(
        "return [Math.max(...Array.from(document.querySelectorAll('table.forest, .facts > div'), e => e.getBoundingClientRect().right)),"
        " ['nav', 'a.csv'].map(name => getComputedStyle(document.querySelector(name)).display), getComputedStyle(document.body).color]"
    )
    assert right <= 718 and hidden == ["none", "none"] and ink == "rgb(0, 0, 0)"
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000


def test_a_click_and_a_key_sort_a_table(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(opened, 1280)
    table = next(t for t in opened.find_elements(By.TAG_NAME, "table") if t.find_element(By.TAG_NAME, "caption").text.startswith("MT at mimic"))
    heading = table.find_elements(By.CSS_SELECTOR, "thead th")[1]
    button = heading.find_element(By.TAG_NAME, "button")

    def column(place=0):
        return opened.execute_script(
            "return Array.from(arguments[0].tBodies[0].rows, row => row.cells[arguments[1]].textContent.trim())", table, place
        )

    before = column()
    assert heading.get_attribute("aria-sort") == "none" and heading.text.startswith("AUROC")
    button.click()
    values = [float(text.split()[0]) for text in column(1)]
    assert heading.get_attribute("aria-sort") == "ascending" and values == sorted(values) and len(values) == 6
    button.send_keys(Keys.ENTER)
    values = [float(text.split()[0]) for text in column(1)]
    assert heading.get_attribute("aria-sort") == "descending" and values == sorted(values, reverse=True)
    assert "descending" in opened.find_element(By.ID, "said").get_attribute("textContent")
    paper = table.find_elements(By.CSS_SELECTOR, "thead th")[2]
    for _ in range(2):  # what is not there comes last, both ways
        paper.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
        assert column(2)[-1] == "" and column(2)[0] != ""
    assert heading.get_attribute("aria-sort") == "none"
    first = table.find_elements(By.CSS_SELECTOR, "thead th")[0].find_element(By.TAG_NAME, "button")
    first.click()
    assert column() == sorted(before)
    table = next(t for t in opened.find_elements(By.TAG_NAME, "table") if t.find_element(By.TAG_NAME, "caption").text == "MT by subgroup")
    opened.execute_script("const cell = arguments[0].tBodies[0].rows[0].cells[2]; delete cell.dataset.order; cell.textContent = 'too few'", table)
    for _ in range(2):  # so do words among numbers
        table.find_elements(By.CSS_SELECTOR, "thead th")[2].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
        assert column(2)[-1] == "too few"


def test_links_lead_to_their_sections_and_the_first_key_skips_the_contents(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(opened, 1280)
    for link in opened.find_elements(By.CSS_SELECTOR, "nav a"):
        opened.execute_script("arguments[0].scrollIntoView({inline: 'center', block: 'nearest'})", link)
        link.click()
        target = opened.find_element(By.ID, link.get_attribute("href").partition("#")[2])
        top, window = opened.execute_script("return [arguments[0].getBoundingClientRect().top, innerHeight]", target)
        assert 0 <= top < window
    opened.execute_script("scrollTo(0, 0); document.activeElement.blur(); location.hash = ''")
    opened.get(opened.current_url.partition("#")[0])
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = opened.switch_to.active_element
    assert skip.text == "Skip to the content" and skip.rect["y"] >= 0
    skip.send_keys(Keys.ENTER)
    assert opened.switch_to.active_element.get_attribute("id") == "content"


def test_long_things_open_by_key(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    details = opened.find_elements(By.TAG_NAME, "details")
    summary = details[0].find_element(By.TAG_NAME, "summary")
    assert len(details) > 5 and not details[0].get_property("open")
    summary.send_keys(Keys.ENTER)
    assert details[0].get_property("open")
    summary.send_keys(Keys.ENTER)


def test_the_marked_epoch_is_the_one_that_was_kept():
    log = [{"best": best, "valid_auroc": auroc} for best, auroc in ((True, 0.6), (False, 0.7), (True, 0.65), (False, 0.9))]
    assert training.kept_epoch(log) == 2  # stopped by the loss: not where the AUROC was highest
