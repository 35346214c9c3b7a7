"""No name in a file of a stranger makes the browser ask for anything: a beacon is never called."""

import contextlib
import http.server
import io
import json
import os
import re
import threading
from urllib.parse import quote

import pytest
from PIL import Image
from PIL.ExifTags import Base
from playwright.sync_api import TimeoutError, expect

from geoclip_core.data.dataset import DESCRIPTION_FILE, csv_path
from geoclip_core.data.doctor import REPORT_FILE
from geoclip_core.data.importing import NOT_IMPORTED_FILE
from geoclip_core.data.vocabulary import Vocabulary
from geoclip_core.evaluation.predictions import write_predictions
from geoclip_core.model.checkpoint import save_checkpoint
from geoclip_core.training.runs import MAX_TITLE, Run
from tests.browser.conftest import PATIENCE_MS, act_until, running_app
from tests.data import layout
from tests.evaluation.synthetic_predictions import synthetic_predictions
from tests.ui import conftest as made
from tests.ui.conftest import ABIDJAN, ABILENE, make_model, photo_bytes
from train.__main__ import main
from train.benchmarks.sessions import ROOT, BrowserSession
from ui.page import DATASETS_VARIABLE, RUNS_VARIABLE

pytestmark = pytest.mark.browser
SEARCH_MS = 400_000
"""Longest wait for reasons: 70 passes of the model on a shared machine."""


STATES = ("finished", "failed", "running")


class Beacon(http.server.BaseHTTPRequestHandler):
    """Notes every request."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    do_HEAD = do_POST = do_OPTIONS = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def beacon():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Beacon)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def names(beacon, where):
    """Two hostile texts, which call the beacon with a word that says where they stand.

    The first is for files; a browser reads its backslashes as slashes.
    """
    address = f"127.0.0.1:{beacon.server_port}"
    slash = "\\\\\\\\"
    short = f"![x](http:{slash}{address}?{where}) <img src=http:{slash}{address}?{where}>"
    text = (
        f"![x](http://{address}/md-{where}) <img src=http://{address}/img-{where}>"
        f"<style>*{{background:url(http://{address}/css-{where})}}</style>"
        f" [a](http://{address}/link-{where}) http://{address}/auto-{where} $\\url{{x}}$ $$x^2$$"
        f" :material/bug_report: :beer: :red[x] `x` www.{where}.example x@{where}.example"
    )
    return short, text


@pytest.fixture(scope="module")
def place(tmp_path_factory, beacon):
    """A working folder in which every name and text is hostile."""
    place = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        _, text = names(beacon, "class")
        labels = (f"{text} 1", f"{text} 2", f"{text} 3")
        patch.setattr(made, "COUNTRIES", Vocabulary("country", ("CI", "FJ", "US"), labels))
        short, text = names(beacon, "model")
        metrics = {
            "published": {
                "source": text,
                "test": text,
                "accuracy_at_km": {"25": 0.1, "750": 0.5},
            }
        }
        model, _ = make_model(short, ABILENE, "BWh", "US")
        for state in STATES:
            make_run(place, beacon, state, model, metrics)
        make_evaluations(place, beacon)
        make_dataset(place, beacon)
    return place


def make_run(place, beacon, state, model, metrics):
    short, text = names(beacon, f"run-{state}")
    run = Run.create(place / "runs", "x", {"data": text, text: text, "backbone": text}, "fit")
    folder = run.folder.rename(run.folder.with_name(f"{run.folder.name}-{state}-{short}"))
    run = Run(folder)
    save_checkpoint(folder / "checkpoint", model, metrics)
    for step in range(4):
        name = names(beacon, "metric")[1][:150]
        run.log_metrics({"step": step, "time": float(step), f"val/{name}": 1.0, name: 1.0})
        run.log_metrics({"step": step, "time": float(step), f"val/{name}_km": 1.0 + step})
    (folder / "log.txt").write_text(f"{text}\n")
    head = {text: {"top1": 0.5, "majority": 0.2}}
    numbers = {"n": 3, "median_km": 5.0, "about": {"split": text}, "context": head}
    (folder / "metrics.json").write_text(json.dumps(numbers))
    changes = {"host": text} if state == "running" else {}
    title = f"{state} {text}"[:MAX_TITLE]
    run.update(state=state, title=title, phase=text, error=text, total_steps=9, **changes)


def make_evaluations(place, beacon):
    short, text = names(beacon, "table")
    frame = synthetic_predictions(60)
    frame["id"] = [f"{text} {i}" for i in range(60)]
    frame["path"] = short
    for column in frame:
        if column.endswith(("_key", "_top1", "_truth")):
            frame[column] = [f"{text} {i % 3}" for i in range(60)]
    frame = frame.rename(columns=lambda name: name.replace("month_", f"{text[:200]}_"))
    frame[f"baseline_{text[:200]}_km"] = 900.0
    about = dict.fromkeys(("model", "dataset", "split", "note", "warning", "root"), text)
    for name, factor in (("a", 1.0), ("b", 1.4)):
        folder = place / "evaluations" / f"{name} {short}"
        table = frame.assign(error_km=frame["error_km"] * factor)
        write_predictions(
            table, folder / "predictions.parquet", {**about, "model": f"{name} {text}"}
        )
    broken = place / "evaluations" / f"c {short}"
    broken.mkdir()
    (broken / "predictions.parquet").write_bytes(b"x")


def make_dataset(place, beacon):
    short, text = names(beacon, "dataset")
    text = text[:290]  # longer cells are refused
    root = layout.make(place / "datasets" / short)
    for split in ("train", "test"):
        path = csv_path(root, split)
        lines = path.read_text().splitlines()
        quoted = '"' + text.replace('"', "'") + '"'
        for name in ("Boise", "Las Vegas", "Abilene", "Idaho", "Kansas"):
            lines = [line.replace(f",{name},", f",{quoted},") for line in lines]
        path.write_text("\n".join(lines) + "\n")
    finding = {"severity": "error", "message": text, "count": 2}
    examples = [{"file": text, "row": 2, "id": text, "value": text}]
    report = {"rows": {text: 3}, "photos_checked": 3, "must_fix": True}
    report["findings"] = [{**finding, "examples": examples}]
    (root / REPORT_FILE).write_text(json.dumps(report))
    cell = text.replace('"', "'")
    (root / NOT_IMPORTED_FILE).write_text(f'file,reason\n"{cell}","{cell}"\n')
    if not (root / DESCRIPTION_FILE).exists():
        (root / DESCRIPTION_FILE).write_text(json.dumps({"name": text, "note": text}))


@pytest.fixture(scope="module")
def server(place, tmp_path_factory):
    variables = {RUNS_VARIABLE: str(place / "runs"), DATASETS_VARIABLE: str(place / "datasets")}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running_app(log, cwd=place, **variables) as running:
        with contextlib.closing(BrowserSession(running.address)) as session:
            for page in ("", "Context_heads", "Evaluation", "Train", "Dataset", "Play"):
                session.run_page(page)  # first imports take long on a busy computer
        yield running


@pytest.fixture
def runs(place):
    """State -> name of the run's folder, for an address."""
    folders = [folder.name for folder in (place / "runs").iterdir()]
    return {
        state: quote(name)
        for state in STATES
        for name in folders
        if re.match(rf"[^!]*-{state}-", name)
    }


@pytest.fixture
def visit(browser, server, beacon):
    """Open a page of the app without the policy that would stop requests; check the beacon."""
    context = browser.new_context(bypass_csp=True, viewport={"width": 1400, "height": 1200})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)

    def visited(path):
        page.goto(f"{server.address}/{path}")
        settled(page)
        return page

    yield visited
    asked = list(beacon.asked)
    # The beacon can be reached from here: an image of a page that is allowed to load one does.
    page.evaluate(f"new Image().src = 'http://127.0.0.1:{beacon.server_port}/reached'")
    for _ in range(100):
        if "/reached" in beacon.asked:
            break
        page.wait_for_timeout(100)
    reached = "/reached" in beacon.asked
    beacon.asked.clear()
    context.close()
    assert asked == []
    assert reached
    assert "Traceback" not in server.log


def settled(page):
    page.wait_for_timeout(300)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_text("because of a fault in the program").count() == 0


def look_around(page):
    """Open what is closed, and move the mouse over everything that may show something then."""
    for summary in page.locator("[data-testid=stExpander] summary").all():
        with contextlib.suppress(Exception):  # one that a rerun has replaced
            if summary.locator("..").get_attribute("open") is None:
                summary.click(timeout=3000)
                settled(page)
    places = ("stTooltipHoverTarget", "stPlotlyChart", "stDataFrame", "stMetric", "stAlert")
    for place in places:
        for element in page.get_by_test_id(place).all()[:12]:
            with contextlib.suppress(Exception):
                element.hover(timeout=2000)
    check_shown(page)


def check_shown(page):
    """No element of a page comes from a text: no picture, link, style, formula or icon."""
    main = page.locator("[data-testid=stApp]")
    assert main.locator("img[src*='127.0.0.1:']:not([src*='/media/'])").count() == 0
    assert main.locator("a[href*='auto-'], a[href*='link-'], a[href*='.example']").count() == 0
    assert main.locator(".katex").count() == 0
    assert page.get_by_text("\N{BEER MUG}").count() == 0
    assert page.get_by_text("bug_report", exact=True).count() == 0


def selected(page):
    """The boxes for several, with what is chosen; their list of options lies elsewhere."""
    return page.get_by_test_id("stMultiSelect")


def choose(page, label, text):
    """Choose the first option of a select box whose text begins so."""
    box = page.get_by_role("combobox", name=label).first
    tags = selected(page).filter(has_text=re.compile(text))

    def pick():
        with contextlib.suppress(TimeoutError):  # a rerun closes the list
            box.click(timeout=5000)
            page.get_by_role("option", name=re.compile(text)).first.click(timeout=10_000)

    def chosen():
        return re.search(text, box.input_value()) or tags.count()

    act_until(page, pick, chosen)
    assert chosen(), (label, text)
    page.keyboard.press("Escape")
    settled(page)


def shows(page, where):
    """Expect that a hostile text is on the page, as text."""
    expect(page.get_by_text(re.compile(rf"!\[x\].*{where}")).first).to_be_attached()


def photos(beacon):
    short, text = names(beacon, "photo")
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = text[:100], text[:100]
    stream = io.BytesIO()
    Image.open(io.BytesIO(photo_bytes(3))).save(stream, "JPEG", exif=exif)
    contents = (stream.getvalue(), photo_bytes(1, ABIDJAN), b"no photo")
    return [
        {"name": f"{i} {short}.jpg", "mimeType": "image/jpeg", "buffer": content}
        for i, content in enumerate(contents)
    ]


def test_map_page(visit, beacon, runs):
    page = visit(f"?model={runs['finished']}")
    page.locator("input[type=file]").first.set_input_files(photos(beacon))
    expect(page.get_by_text("Even odds").nth(1)).to_be_visible()
    settled(page)
    shows(page, "photo")
    shows(page, "model")
    frame = page.frame_locator("iframe[title^='streamlit_folium']").first
    frame.locator("[data-borders='drawn']").wait_for()
    for pin in frame.locator(".leaflet-marker-icon, path.leaflet-interactive").all()[:12]:
        with contextlib.suppress(Exception):
            pin.hover(timeout=2000)
            pin.click(timeout=2000)
    look_around(page)
    # the same photo again: the toast that says so
    page.locator("input[type=file]").first.set_input_files(photos(beacon)[:1])
    expect(page.get_by_test_id("stToast")).to_contain_text("has already been added")
    check_shown(page)
    choose(page, "Compare with", "mini-plain")
    look_around(page)


def test_context_page(visit, runs):
    page = visit(f"Context_heads?model={runs['finished']}")
    expect(page.get_by_text("Even odds").first).to_be_visible()
    look_around(page)
    shows(page, "class")
    page.locator(".st-key-A-country").get_by_role("button", name="Why?").click()
    expect(page.get_by_text("Hiding the outlined part").first).to_be_visible(timeout=SEARCH_MS)
    page.locator(".st-key-A-country li button").first.click()
    expect(page.get_by_text("Overruled: ").first).to_be_visible()
    look_around(page)


def test_play_page(visit, runs):
    page = visit(f"?model={runs['finished']}")  # which plays
    page.get_by_role("link", name="Play").click()
    expect(selected(page).first).to_contain_text("finished")
    settled(page)
    look_around(page)
    page.get_by_role("button", name=re.compile("^Play ")).click()
    expect(page.get_by_text("Round 1 of")).to_be_visible()
    look_around(page)
    page.get_by_role("button", name="End this game").click()
    settled(page)
    look_around(page)


def test_evaluation_page(visit):
    page = visit("Evaluation")
    choose(page, "Dataset", "table")
    choose(page, "Compare with", "table")
    look_around(page)
    shows(page, "table")
    for tab in page.get_by_role("tab").all():
        tab.click()
        settled(page)
        look_around(page)


def test_train_page(visit, runs):
    for state in STATES:
        page = visit(f"Train?run={runs[state]}")
        look_around(page)
        shows(page, f"run-{state}")
        if page.get_by_role("button", name="Delete", exact=True).count():
            page.get_by_role("button", name="Delete", exact=True).click()
            check_shown(page)
            page.keyboard.press("Escape")
    for view in ("All runs", "New training"):
        page.get_by_role("radio", name=view).click()
        settled(page)
        look_around(page)


def test_dataset_page(visit):
    page = visit("Dataset")
    for view in ("Explore", "Check", "Add a dataset"):
        page.get_by_role("radio", name=view).click()
        settled(page)
        look_around(page)
        if view != "Add a dataset":
            shows(page, "dataset")


def test_without_the_escaping_the_beacon_is_called(browser, beacon, place, runs, tmp_path):
    """The tests above can fail; and then the policy of the app still keeps a page from calling."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import ui.theme\nui.theme.markdown_text = lambda text: text\n"
    )
    paths = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {RUNS_VARIABLE: str(place / "runs"), DATASETS_VARIABLE: str(place / "datasets")}
    called = {}
    with running_app(tmp_path / "log.txt", cwd=place, PYTHONPATH=paths, **variables) as running:
        with contextlib.closing(BrowserSession(running.address)) as session:
            session.run_page("Train")
        for bypassed in (False, True):
            context = browser.new_context(bypass_csp=bypassed)
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"{running.address}/Train?run={runs['failed']}")
            page.locator("img[src*='/md-run-failed']").first.wait_for(state="attached")
            for _ in range(100):
                page.wait_for_timeout(100)
                if beacon.asked:
                    break
            called[bypassed] = [path for path in beacon.asked if "md-run-failed" in path]
            beacon.asked.clear()
            context.close()
    assert called[True]
    assert called[False] == []


def test_report(browser, beacon, tmp_path):
    _, text = names(beacon, "report")
    frame = synthetic_predictions(200)
    for column in frame:
        if column.endswith(("_key", "_top1", "_truth")) or column == "id":
            kinds = 200 if column == "id" else 3
            frame[column] = [f"{text} {i % kinds}" for i in range(200)]
    about = dict.fromkeys(("model", "dataset", "split", "note", "warning"), text)
    write_predictions(frame, tmp_path / "run" / "predictions.parquet", about)
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "run"), "--output", str(output)]) == 0
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(output.as_uri())
    expect(page.locator(".js-plotly-plot .main-svg").nth(20)).to_be_attached()
    for chart in page.locator(".js-plotly-plot").all():
        chart.hover()
    page.wait_for_timeout(500)
    assert page.locator("img:not([src^='data:']), a[href*='127.0.0.1']").count() == 0
    context.close()
    assert beacon.asked == []
