"""The numbers in README and docs are the measured ones; the commands and links they name exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from geoclip_core.evaluation.baselines import baseline_title
from geoclip_core.hints import parse_given, read_hints
from geoclip_core.model.checkpoint import BUNDLED, bundled_models, load_checkpoint
from geoclip_core.training.cards import answer_lines
from train.__main__ import COMMANDS
from train.benchmarks.ablation import markdown

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MEASURED = ROOT / "docs" / "measured"
BASELINES = ("constant", "nearest_photo")


def bundled_rows():
    """The rows of the README's table, as the bundled models' metrics.json say."""
    features = ("climate", "country")
    rows = []
    for name in bundled_models():
        metrics = metrics_of(name)
        found = [metrics["context"].get(feature) for feature in features]
        cells = [f"{f['top1']:.1%} / {f['top3']:.1%}" if f else "–" for f in found]
        rows.append(table_row(f"**{name}**", metrics, cells))
    mini = metrics_of("mini")
    majority = [f"{mini['context'][feature]['majority']:.1%} / –" for feature in features]
    for key in BASELINES:
        cells = majority if key == "constant" else ["–", "–"]
        rows.append(table_row(baseline_title(key), mini["baselines"][key], cells))
    return rows


def metrics_of(name):
    return json.loads((BUNDLED / name / "metrics.json").read_text(encoding="utf-8"))


def table_row(label, metrics, context):
    within = metrics["accuracy_at_km"]
    cells = [f"{metrics[key]:,.0f}" for key in ("geoscore", "median_km", "mean_km")]
    cells += [f"{within[radius]:.1%}" for radius in ("200", "750", "2500")]
    return f"| {label} | " + " | ".join(cells + context) + " |"


def test_the_table_holds_the_measured_numbers_of_the_bundled_models():
    for row in bundled_rows():
        assert row in README, f"the README's table lacks this row:\n{row}"


@pytest.mark.parametrize("text", [README, RESULTS], ids=["README", "results"])
def test_every_command_exists(text):
    named = re.findall(r"python -m train ([a-z-]+)", text)
    assert named
    assert set(named) <= set(COMMANDS)


def test_both_set_up_commands_are_one_line_each():
    setup = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert len(setup) == 2
    for line in setup:
        for word in shlex.split(line):
            if word.endswith((".txt", ".py")):
                assert (ROOT / word).is_file()
    assert "streamlit run app.py" in setup[0]
    assert setup[1].endswith("pytest")


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w./-]+/[\w.-]+\.py)`", CONTRIBUTING))))
def test_files_named_for_contributors_exist(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", ["demo", "sample"])
def test_the_tables_of_the_ablation_are_what_was_measured(name):
    report = json.loads((MEASURED / f"ablation-{name}.json").read_text())
    assert f"<!-- ablation-{name} -->\n{markdown(report)}\n<!-- end -->" in RESULTS


def answer_block(name):
    report = json.loads((MEASURED / f"answers-{name}.json").read_text())
    title = f"**{report['model']}** on {report['dataset']}: {report['photos']}"
    return "\n".join([title, *answer_lines(report)])


def hint_table():
    hints = {
        name: json.loads((MEASURED / f"answers-{name}.json").read_text())["hints"]
        for name in ("mini", "demo")
    }
    rows = ["| known | GeoScore of mini | of a demo run |", "|---|---|---|"]
    for known in ("none", "country", "state", "climate", "country and climate"):
        scores = [f"{one[known]['geoscore']:,.0f}" for one in hints.values()]
        title = "nothing" if known == "none" else known
        rows.append(f"| {title} | {' | '.join(scores)} |")
    return "\n".join(rows)


@pytest.mark.parametrize("name", ["mini", "demo"])
def test_what_answers_claim_is_what_was_measured(name):
    assert f"<!-- answers-{name} -->\n{answer_block(name)}\n<!-- end -->" in RESULTS
    command = json.loads((MEASURED / f"answers-{name}.json").read_text())["command"]
    assert command in RESULTS


def test_the_table_of_hints_is_the_measured_one():
    assert f"<!-- hints -->\n{hint_table()}\n<!-- end -->" in README


@pytest.mark.parametrize("name", bundled_models())
def test_the_card_of_a_bundled_model_says_what_its_answers_claim(name):
    card = (BUNDLED / name / "README.md").read_text(encoding="utf-8")
    numbers = {k: v for k, v in metrics_of(name).items() if k != "intervals"}
    assert "\n".join(answer_lines(numbers)) in card


def test_the_nested_score_is_the_measured_one():
    found = json.loads((MEASURED / "selection.json").read_text())
    low, high = found["geoscore_interval"]
    score = f"{found['geoscore']:,.0f} [{low:,.0f}–{high:,.0f}]"
    assert score in README
    assert score in RESULTS
    assert f"the median {found['median_km']:,.0f} km" in RESULTS
    for name in bundled_models():
        note = metrics_of(name)["note"]
        assert score in note
        assert note in (BUNDLED / name / "README.md").read_text(encoding="utf-8")
        assert f"{found['settings']:,} settings" in note


def test_the_scores_of_the_explanations_are_the_measured_ones():
    def row(name, answer):
        return json.loads((MEASURED / f"explanation-{name}.json").read_text())["answers"][answer]

    text = " ".join(RESULTS.split())
    place, climate, country = (row("sample", answer) for answer in ("place", "climate", "country"))
    assert f"takes {100 * place['marked']:.0f} % of the GeoScore" in text
    assert f"the same shape elsewhere {100 * place['elsewhere']:.0f} %" in text
    for found in (climate, country):
        pair = f"{100 * found['marked']:.0f} %", f"against {100 * found['elsewhere']:.0f} %"
        assert all(part in text for part in pair)
    assert f"stands out in {100 * (1 - place['stands_out']):.0f} % of the photos" in text
    heads = [row("demo", name) for name in ("climate", "month", "state", "county", "city")]
    shares = [
        f"{100 * pick(head[key] for head in heads):.0f} %"
        for key in ("marked", "elsewhere")
        for pick in (min, max)
    ]
    assert "{} to {} against {} to {} for the five heads".format(*shares) in text


def test_the_default_model_takes_what_the_readme_gives_as_known():
    given = re.findall(r"^geoclip locate .*--given .*$", README, flags=re.MULTILINE)
    assert given
    model = load_checkpoint(BUNDLED / "mini", with_backbone=False)
    for line in given:
        hints = parse_given(tuple(re.findall(r"--given (\S+)", line)))
        assert read_hints(hints, model.vocabularies, "mini")
