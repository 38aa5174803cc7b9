"""The gateway's page in a real browser, over a real gateway, a real Triton and a real online store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_world
from gateway_process import start_gateway, stop_gateway
from onnx import numpy_helper
from tiny_release import SPEC, write_artifacts

from leanrec.config import FeatureStoreSettings, ReleaseSettings
from leanrec.data.pseudonyms import pseudonym_of
from leanrec.features.store import materialize_features
from leanrec.files import write_json
from leanrec.release.publish import publish_release
from leanrec.schema import RECOMMENDER
from leanrec.triton.embedded_server import embedded_server

sys.path.insert(0, str(Path(__file__).parent))
from chromium_page import Page, chromium_page

pytestmark = pytest.mark.integration

ITEMS = tuple(f"i{n}" for n in range(1, 31))
EVIL = "<script>document.title='broken in'</script><img src=x onerror=\"document.title='broken in'\">"
PSEUDONYM_KEY = "a key of sixteen bytes or more"
LIST = "[...document.querySelectorAll('.slate .what b')].map(e => e.textContent)"
ACCESSIBILITY = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")


def make_world(folder: Path) -> Path:
    """Two releases, the newer with an evil title and two items moved, and a store; the settings' path."""
    events = [
        small_world.event(
            u * 100 + n, pseudonym_of(f"u{u}", PSEUDONYM_KEY.encode()), ITEMS[(u + n) % 30], n * 10
        )
        for u in range(3)
        for n in range(4 + u)
    ]
    paths = small_world.build(folder, events, items=ITEMS)
    store = FeatureStoreSettings(repository=str(folder / "feast"))
    materialize_features(store, features=paths["features"], output=folder / "online.json")
    spec = replace(
        SPEC, num_users=4, num_items=len(ITEMS) + 1, attribute_cardinalities={"group": 3}, history_length=3
    )
    release = ReleaseSettings(repository=str(folder / "models"))
    for version in (1, 2):
        artifacts = write_artifacts(folder / f"artifacts{version}", spec=spec)
        if version == 2:
            change_release(artifacts["compressed"] / "chosen")
        publish_release(release, name="tiny", **artifacts, lineage={}, output=folder / "release.json")
    settings = {
        "name": "tiny",
        "data": {"source": "csv", "events": "e", "items": "i", "user_attributes": ["group"]},
        "features": {"history_length": 3, "liked_threshold": 4},
        "feature_store": store.model_dump(mode="json"),
        "release": release.model_dump(mode="json"),
        "gateway": {"port": 0, "keys": str(folder / "keys"), "store_deadline_ms": 5000, "deadline_ms": 5000},
    }
    write_json(folder / "settings.json", settings)
    return folder / "settings.json"


def change_release(graphs: Path) -> None:
    """Item 30 falls to the sixth place, item 29 out of the list; item 28 has a title that is HTML."""
    path = graphs / RECOMMENDER / "model.onnx"
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    values = numpy_helper.to_array(bias).copy()
    values[0, 30] = values[0, 24] + 0.001
    values[0, 29] = 0
    bias.CopyFrom(numpy_helper.from_array(values, "bias"))
    onnx.save(model, path)
    table = pq.read_table(graphs / "items.parquet")
    titles = table["title"].to_pylist()
    titles[28] = EVIL
    place = table.column_names.index("title")
    pq.write_table(table.set_column(place, "title", pa.array(titles)), graphs / "items.parquet")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a running gateway and the key that opens it."""
    folder = tmp_path_factory.mktemp("page")
    settings = make_world(folder)
    with embedded_server(folder / "models", folder / "server.json") as triton:
        content = json.loads(settings.read_text())
        content["gateway"]["triton"] = [triton.grpc]
        write_json(settings, content)
        process, url = start_gateway(settings, folder / "gateway.log", PSEUDONYM_KEY)
        try:
            yield url, (folder / "keys.local").read_text().strip()
        finally:
            stop_gateway(process)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium_page(tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


@pytest.fixture
def page(browser: Page, gateway: tuple[str, str]) -> Page:
    """The page as the printed address opens it, before anybody is asked for."""
    url, key = gateway
    browser.console.clear()
    browser.open(f"{url}/#key={key}")
    browser.wait("!document.getElementById('desk').hidden")
    return browser


def type_over(page: Page, text: str) -> None:
    """Put text in the user field without submitting it."""
    page.evaluate("document.getElementById('user').focus()")
    page.evaluate("document.getElementById('user').select()")
    page.type(text)


def ask_for(page: Page, user: str) -> None:
    type_over(page, user)
    page.press("Enter")
    page.wait(f"document.getElementById('status').textContent.includes('for {user} ')")


def choose(page: Page, select: str, value: str) -> None:
    page.evaluate(
        f"(s => {{ s.value = '{value}'; s.dispatchEvent(new Event('change', {{bubbles: true}})) }})"
        f"(document.getElementById('{select}'))"
    )


def test_a_user_is_found_with_history_list_reasons_and_release(page: Page) -> None:
    assert page.evaluate("location.href").endswith("/")
    ask_for(page, "u1")
    # Newest first, at most three as the features keep; the tiny release prefers high indices.
    assert page.texts(".history li") == ["Title 6rated 5 ★", "Title 5rated 5 ★", "Title 4rated 5 ★"]
    assert page.evaluate(LIST)[1:5] == ["Title 27", "Title 26", "Title 25", "Title 30"]
    assert page.texts("#answers .facts")[0].startswith("Release 2, stable · ")
    assert page.texts(".why")[0].startswith("because you liked Title ")
    assert page.texts("#latency tbody th")[:2] == ["User's row", "Model"]
    page.wait("document.querySelectorAll('#latency table').length === 2")
    assert page.texts(".past b") == ["publish 1 → 2", "publish 1"]
    assert page.console == []


@pytest.mark.parametrize("user", [".", "..", "../u0", "u0/..", "a&b=c#d", "50%"])
def test_an_id_that_looks_like_a_path_is_an_id(page: Page, user: str) -> None:
    ask_for(page, user)
    assert page.texts("#history .note") == ["Nothing is stored under this id."]
    page.evaluate("document.querySelector('.slate [aria-label=\"Rate Title 27\"]').click()")
    page.evaluate("document.querySelector('[aria-label=\"3 of 5\"]').click()")
    page.wait("document.querySelectorAll('#history li').length")
    assert page.texts(".history li") == ["Title 27rated 3 ★"]
    assert page.console == []


def test_a_title_that_holds_html_stays_text(page: Page) -> None:
    ask_for(page, "u1")
    assert page.evaluate(LIST)[0] == EVIL
    page.evaluate("document.querySelector('.slate button').click()")
    page.wait("document.getElementById('similar').open")
    assert page.texts("#similar-title") == [f"Similar to {EVIL}"]
    assert page.evaluate("document.title") == "LeanRec"
    assert page.evaluate("document.querySelectorAll('main script, main img').length") == 0
    # Nor could our own code make HTML of it: the browser refuses.
    assert page.evaluate(
        "(() => { try { document.createElement('p').innerHTML = '<b>x</b>' } catch (e) { return e.name } })()"
    ) == ("TypeError")


def test_two_releases_stand_side_by_side_with_what_moved(page: Page) -> None:
    ask_for(page, "u1")
    choose(page, "against", "1")
    page.wait("document.querySelectorAll('#answers article').length === 2")
    assert page.texts("#answers h2") == ["Release 2, stable", "Release 1, stable"]
    rows = page.texts("#answers article:last-child .what")
    assert rows[0].startswith("Title 30 ▲ 4 up")
    assert rows[1].startswith("Title 29 new")
    assert rows[2].startswith("Title 28 ▼ 2 down")
    assert page.texts("#answers article:last-child > .note")[0] == "gone Title 20"
    assert page.console == []


def test_filters_change_the_list(page: Page) -> None:
    ask_for(page, "u2")
    choose(page, "k", "5")
    page.wait(f"{LIST}.length === 5")
    choose(page, "category", "Drama")
    page.wait("!document.getElementById('answers').hasAttribute('aria-busy')")
    assert page.evaluate(LIST)[1] == "Title 27"
    choose(page, "release", "1")
    page.wait(f"{LIST}[0] === 'Title 30'")


def test_a_rating_is_stored_and_the_list_says_what_it_changed(page: Page) -> None:
    ask_for(page, "u0")
    assert page.evaluate(LIST)[1] == "Title 27"
    page.evaluate("document.querySelector('[aria-label=\"Rate Title 27\"]').click()")
    assert page.focused() == "1 of 5"
    page.press("Escape")
    assert page.focused() == "Rate Title 27"
    page.press("Enter")
    page.evaluate("document.querySelector('[aria-label=\"4 of 5\"]').click()")
    said = "The rating 4 of Title 27 is stored; the list is new."
    page.wait(f"document.getElementById('status').textContent === '{said}'")
    assert page.texts(".history li")[0] == "Title 27rated 4 ★"
    assert page.evaluate(LIST)[1] == "Title 26"
    assert page.texts(".slate .badge")[0] == "▲ 1 up"
    assert page.texts("#answers article > .note")[0].startswith("gone Title 27")
    assert page.console == []


@pytest.mark.parametrize(
    ("scale", "offered"),
    [
        ([0, 5], [1, 2, 3, 4, 5]),
        ([0.5, 5], [1, 2, 3, 4, 5]),
        ([1, 10], list(range(1, 11))),
        ([-1, 1], [-1, 0, 1]),
        ([0, 1], [1]),
        ([0, 100], [0, 25, 50, 75, 100]),
        ([0, 0.5], [0, 0.125, 0.25, 0.375, 0.5]),
    ],
)
def test_the_ratings_offered_are_those_of_the_data(page: Page, scale: list, offered: list) -> None:
    assert page.evaluate(f"import('/static/slates.js').then(m => m.ratingsOn({scale}))") == offered


def test_somebody_new_gets_popular_items_and_is_told_so(page: Page) -> None:
    page.evaluate("document.getElementById('stranger').click()")
    page.wait("document.querySelector('.slate li')")
    assert "Nobody here is stored under this id, so these are popular items." in page.texts("#answers .note")
    assert page.texts("#history .note") == ["Nothing is stored under this id."]
    assert page.console == []


def test_a_wrong_key_is_refused_in_the_gateways_words(page: Page, gateway: tuple[str, str]) -> None:
    url, key = gateway
    page.open(f"{url}/#key=wrong")
    page.wait("!document.getElementById('message').hidden")
    said = "the header X-API-Key is missing or holds no key that is known here"
    assert page.texts("#message") == [said]
    assert page.evaluate("[location.hash, sessionStorage.getItem('leanrec.key')]") == ["", None]
    assert page.focused() == "API key"
    page.type(key)
    page.press("Enter")
    page.wait("!document.getElementById('desk').hidden && document.activeElement.id === 'user'")
    assert page.evaluate("document.getElementById('message').hidden")


def test_what_the_gateway_refuses_is_shown_and_the_page_goes_on(page: Page) -> None:
    page.evaluate("document.getElementById('user').value = 'u\\u0007'")
    page.evaluate("document.getElementById('ask').requestSubmit()")
    page.wait("!document.getElementById('message').hidden")
    assert "holds a control character" in page.texts("#message")[0]
    ask_for(page, "u1")
    assert page.evaluate("document.getElementById('message').hidden")


def watch_questions(page: Page) -> None:
    """Note in `asked` whom each recommendation is asked for."""
    page.evaluate(
        "window.asked = []; window.realFetch ??= window.fetch; window.fetch = (path, given) => {"
        " if (path === '/v1/recommendations') asked.push(JSON.parse(given.body).user_id);"
        " return realFetch(path, given) }; undefined"
    )


def test_who_is_asked_for_changes_by_submitting_alone(page: Page) -> None:
    ask_for(page, "u1")
    watch_questions(page)
    type_over(page, "u")
    choose(page, "k", "5")
    page.wait(f"{LIST}.length === 5")
    page.evaluate("document.getElementById('repeat').click()")
    page.wait("asked.length >= 4")
    page.evaluate("document.getElementById('repeat').click()")
    assert set(page.evaluate("asked")) == {"u1"}
    assert page.evaluate("document.getElementById('user').value") == "u"
    ask_for(page, "u2")
    assert page.evaluate("asked.at(-1)") == "u2"


def test_asking_every_second_begins_with_the_user_typed_and_asks_for_nobody_else(page: Page) -> None:
    watch_questions(page)
    page.evaluate("document.getElementById('repeat').click()")
    assert page.evaluate("document.getElementById('repeat').getAttribute('aria-pressed')") == "false"
    type_over(page, "u1")
    page.evaluate("document.getElementById('repeat').click()")
    page.wait("asked.length >= 3")
    page.evaluate("document.getElementById('repeat').click()")
    assert set(page.evaluate("asked")) == {"u1"}


def break_service(page: Page, status: int, paths: str = "", said: str = "refused") -> None:
    """Until `mend_service`, addresses that hold `paths` answer with `status`; with 0, nothing answers."""
    page.evaluate(
        "window.realFetch ??= window.fetch; window.refusals = 0; window.fetch = async (path, given) => {"
        f" if (!path.includes('{paths}')) return realFetch(path, given); refusals++;"
        f" if ({status} === 0) throw new TypeError('Failed to fetch');"
        f" const error = {{code: 'x', message: '{said} with {status}'}};"
        f" return new Response(JSON.stringify({{error}}), {{status: {status}}}) }}; undefined"
    )


def mend_service(page: Page) -> None:
    page.evaluate("window.fetch = realFetch; undefined")


def submit(page: Page) -> None:
    page.evaluate("document.getElementById('ask').requestSubmit()")


MESSAGE = "document.getElementById('message')"
PRESSED = "document.getElementById('repeat').getAttribute('aria-pressed') === 'true'"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "The gateway does not answer; is it running, and is the network there? Asking"),
        (429, "refused with 429. Asking"),
        (503, "refused with 503. Asking"),
    ],
)
def test_asking_every_second_outlives_an_outage_and_says_so(page: Page, status: int, said: str) -> None:
    ask_for(page, "u1")
    page.evaluate("document.getElementById('repeat').click()")
    break_service(page, status)
    page.wait("refusals >= 4")
    assert page.texts("#message") == [f"{said} again every second."]
    assert page.evaluate(PRESSED)
    mend_service(page)
    page.wait(f"{MESSAGE}.hidden")
    assert page.evaluate(PRESSED)
    page.evaluate("document.getElementById('repeat').click()")


def test_a_repeat_that_is_stopped_in_an_outage_says_no_more_that_it_asks(page: Page) -> None:
    ask_for(page, "u1")
    page.evaluate("document.getElementById('repeat').click()")
    break_service(page, 503)
    page.wait(f"{MESSAGE}.textContent.endsWith('every second.')")
    page.evaluate("document.getElementById('repeat').click()")
    assert page.texts("#message") == ["refused with 503"]


@pytest.mark.parametrize("status", [401, 404, 422])
def test_asking_every_second_ends_where_the_refusal_would_be_the_same(page: Page, status: int) -> None:
    ask_for(page, "u1")
    page.evaluate("document.getElementById('repeat').click()")
    break_service(page, status, "recommendations")
    page.wait(f"!{MESSAGE}.hidden")
    assert page.texts("#message") == [f"refused with {status}"]
    assert not page.evaluate(PRESSED)
    assert page.evaluate("document.getElementById('desk').hidden") == (status == 401)


def test_an_outage_is_not_shown_longer_than_it_lasts_and_a_refusal_is(page: Page) -> None:
    ask_for(page, "u1")
    break_service(page, 0)
    submit(page)
    page.wait(f"!{MESSAGE}.hidden")
    mend_service(page)
    # Nobody asks for anything: what the page asks by itself is answered.
    page.wait(f"{MESSAGE}.hidden")
    page.evaluate("document.getElementById('repeat').click()")
    page.wait("!document.getElementById('answers').hasAttribute('aria-busy')")
    break_service(page, 404, "/similar")
    page.evaluate("document.querySelector('[aria-label^=\"Similar to\"]').click()")
    page.wait(f"!{MESSAGE}.hidden")
    assert page.texts("#message") == ["refused with 404"]
    page.evaluate(
        "window.answers = 0; window.fetch = (path, given) =>"
        " realFetch(path, given).finally(() => answers++); undefined"
    )
    page.wait("answers >= 8")
    assert page.texts("#message") == ["refused with 404"]
    assert page.evaluate(PRESSED)
    page.evaluate("document.getElementById('repeat').click()")
    submit(page)
    page.wait(f"{MESSAGE}.hidden")


def test_a_page_opened_in_an_outage_opens_by_itself_when_it_is_over(
    page: Page, gateway: tuple[str, str]
) -> None:
    url, key = gateway
    broken = "window.realFetch = fetch; window.fetch = async () => { throw new TypeError('Failed to fetch') }"
    script = page.send("Page.addScriptToEvaluateOnNewDocument", source=broken)
    page.open(f"{url}/#key={key}")
    page.send("Page.removeScriptToEvaluateOnNewDocument", **script)
    page.wait(f"!{MESSAGE}.hidden")
    assert page.texts("#message") == ["The gateway does not answer; is it running, and is the network there?"]
    mend_service(page)
    page.wait("!document.getElementById('desk').hidden && document.activeElement.id === 'user'")
    assert page.evaluate(f"{MESSAGE}.hidden")


def test_a_history_that_cannot_be_read_takes_no_list_away(page: Page) -> None:
    break_service(page, 503, "/users?")
    ask_for(page, "u2")
    assert page.texts("#history") == ["No history now: refused with 503"]
    assert page.texts("#message") == [""]
    mend_service(page)
    page.evaluate("document.getElementById('repeat').click()")
    page.wait("document.querySelectorAll('#history li').length > 0")  # the next question brings it
    page.evaluate("document.getElementById('repeat').click()")


def test_a_rating_that_is_stored_while_the_list_fails_says_so(page: Page) -> None:
    ask_for(page, "u6")
    break_service(page, 503, "recommendations")
    page.evaluate("document.querySelector('.slate [aria-label^=\"Rate \"]').click()")
    page.evaluate("document.querySelector('[aria-label=\"4 of 5\"]').click()")
    said = "is stored; the list could not be renewed."
    page.wait(f"document.getElementById('status').textContent.endsWith('{said}')")
    assert page.texts("#message") == ["refused with 503"]
    mend_service(page)


def test_a_user_asked_for_in_an_outage_comes_with_the_own_history(page: Page) -> None:
    ask_for(page, "u1")
    page.evaluate("document.getElementById('repeat').click()")
    break_service(page, 503)
    type_over(page, "u2")
    page.press("Enter")
    page.wait(f"!{MESSAGE}.hidden")
    mend_service(page)
    page.wait("document.getElementById('status').textContent.includes('for u2 ')")
    assert page.texts(".history li")[0] == "Title 8rated 5 ★"
    page.evaluate("document.getElementById('repeat').click()")


def test_everything_is_reached_by_the_keyboard_and_seen_to_be(page: Page) -> None:
    page.evaluate("document.activeElement.blur()")
    page.press("Tab")
    assert page.focused() == "Skip to the recommendations"
    page.press("Tab")
    assert page.focused() == "User"
    page.type("u1")
    page.press("Enter")
    page.wait("document.querySelector('.slate li')")
    reached = []
    for _ in range(14):
        page.press("Tab")
        reached.append(page.focused())
        style = "getComputedStyle(document.activeElement)"
        assert page.evaluate(f"{style}.outlineStyle") != "none" or page.evaluate(
            "document.activeElement.id === 'answers'"
        )
    assert reached[:2] == ["Recommend", "Someone new"]
    assert {"Category", "Items", "Release", "Compare with", "Leave out what was seen"} <= set(reached)
    open_similar(page, "Title 27")
    close_similar(page)
    assert page.focused() == "Similar to Title 27"


def open_similar(page: Page, title: str) -> None:
    page.evaluate(f"document.querySelector('[aria-label=\"Similar to {title}\"]').focus()")
    page.press("Enter")
    page.wait("document.getElementById('similar').open")


def close_similar(page: Page) -> None:
    page.press("Escape")
    page.wait("!document.getElementById('similar').open")


def test_the_dialog_takes_the_focus_to_its_title_and_gives_it_back(page: Page) -> None:
    ask_for(page, "u1")
    open_similar(page, "Title 26")
    assert page.focused() == "Similar to Title 26"
    assert page.evaluate("document.activeElement.id") == "similar-title"
    # One of the similar ones: another title, and the focus on it, not on a button that is gone.
    page.evaluate("document.querySelector('#similar-items button').click()")
    page.wait("document.getElementById('similar-title').textContent !== 'Similar to Title 26'")
    assert page.evaluate("document.activeElement.id") == "similar-title"
    close_similar(page)
    assert page.focused() == "Similar to Title 26"
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"


def test_the_focus_comes_back_to_the_list_though_it_was_drawn_anew(page: Page) -> None:
    rows = "document.querySelectorAll('#answers .slate li').length"
    ask_for(page, "u1")
    last = page.evaluate(LIST)[9]
    open_similar(page, "Title 26")
    choose(page, "k", "5")
    page.wait(f"{rows} === 5")
    close_similar(page)
    page.wait("document.activeElement.tagName === 'BUTTON'")
    assert page.focused() == "Similar to Title 26"
    choose(page, "k", "10")
    page.wait(f"{rows} === 10")
    open_similar(page, last)
    choose(page, "k", "5")
    page.wait(f"{rows} === 5")
    close_similar(page)
    page.wait("document.activeElement.id === 'answers'")


@pytest.mark.parametrize(
    ("width", "user"), [(320, "0f8fad5b-d9cb-469f-a165-70867728950e"), (390, "e3b0c44298fc1c14" * 4)]
)
def test_a_long_id_does_not_make_the_page_scroll_sideways(page: Page, width: int, user: str) -> None:
    page.resize(width, 900)
    ask_for(page, user)
    assert page.texts("#suggestions button")[1] == user
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    break_service(page, 404, said=f"no user {user}")
    submit(page)
    page.wait(f"!{MESSAGE}.hidden")
    assert page.evaluate(fits)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_accessible_and_fits_at_every_width_in_both_schemes(
    page: Page, width: int, scheme: str
) -> None:
    page.resize(width, 900, scheme)
    ask_for(page, "u1")
    choose(page, "against", "1")
    page.wait("document.querySelectorAll('#answers article').length === 2")
    page.wait("document.querySelectorAll('#latency table').length === 2")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8") + ";undefined")
    rules = json.dumps({"runOnly": list(ACCESSIBILITY)})
    faults = page.evaluate(
        f"axe.run(document, {rules}).then(found => found.violations.map("
        "rule => [rule.id, rule.nodes.map(node => node.html + node.failureSummary)]))"
    )
    assert faults == []


def test_the_whole_page_is_small_comes_in_one_round_and_does_not_jump(page: Page) -> None:
    loaded = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/static/'))"
        ".map(e => [new URL(e.name).pathname, e.decodedBodySize])"
    )
    asked_in_the_document = page.evaluate(
        "[...document.querySelectorAll('link[href], script[src]')]"
        ".map(e => new URL(e.href || e.src).pathname).filter(p => !p.endsWith('.svg'))"
    )
    assert {path for path, _ in loaded if not path.endswith(".svg")} == set(asked_in_the_document)
    assert len(page.evaluate("fetch('/').then(r => r.text())")) + sum(size for _, size in loaded) < 60_000
    page.evaluate(
        "window.jumps = 0; new PerformanceObserver(list => list.getEntries().forEach(e => {"
        " if (!e.hadRecentInput) window.jumps += e.value })).observe({type: 'layout-shift', buffered: true});"
    )
    ask_for(page, "u1")
    assert page.evaluate("new Promise(done => setTimeout(() => done(window.jumps), 300))") < 0.02
