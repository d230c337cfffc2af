"""The map in a real browser: JupyterLab in headless Chromium, a kernel behind it.

Chromium is that of the distribution (``apt-get install chromium``, or ``make browser``); without
it, or without Playwright, these tests skip and say so. The server listens on 127.0.0.1 alone,
keeps everything under a directory of the test, and is ended with it. Screenshots are kept there
too, or in ``PAGEMAP_DF_SHOTS`` if that is set.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="the map needs anywidget (the extra widgets)")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)

CHROMIUM = Path(os.environ.get("PAGEMAP_DF_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PATIENCE = 60_000

# One server and one browser for all of these: with xdist, --dist loadgroup keeps them together.
pytestmark = pytest.mark.xdist_group("browser")

ONE = """
import pagemap_df as pm
from ipywidgets import Label
from pagemap_df.widget.memorymap import MemoryMap
snap = pm.load_dataset("preforked-family")
family = MemoryMap(snap)
said = Label("nothing is selected")
def tell(change):
    rows = change.new
    said.value = "let go" if rows is None else f"selected {len(rows)} rows of {rows['pid'].unique()}"
family.observe(tell, "selection")
display(family, said)
"""
TWO = """
import os, mmap
region = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
region[: 2 << 20] = bytes(2 << 20)
before = pm.take(pids=os.getpid())
region[4 << 20 : 6 << 20] = bytes(2 << 20)
own = MemoryMap(before, pm.take(pids=os.getpid()), color="change")
own.every = 0.2
display(own)
"""

BUSY = """
import os, time
import pagemap_df as pm
from pagemap_df.widget.memorymap import MemoryMap
seen = MemoryMap(pm.take(pids=os.getpid()))
seen.start(every=0.2)
display(seen)
time.sleep(20)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: make browser, or set PAGEMAP_DF_CHROMIUM")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def shots(place: Path) -> Path:
    kept = Path(os.environ.get("PAGEMAP_DF_SHOTS", place / "shots"))
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def lab(root: Path) -> Iterator[str]:
    """A JupyterLab server on `root`; gives its address and ends it and its kernels."""
    port = free_port()
    settings = root / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    own = {
        f"JUPYTER_{name}_DIR": str(root / ".own" / name) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    own |= {
        "JUPYTERLAB_SETTINGS_DIR": str(root / ".settings"),
        "IPYTHONDIR": str(root / ".ipython"),
    }
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(root / ".workspaces"), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={root}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    log = root / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(address, server), 60, lambda: log.read_text()[-2000:])
        yield address
    finally:
        server.terminate()  # it shuts its kernels down
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "the server has ended"
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def wait_until(ready: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, why()
        time.sleep(0.1)


def notebook(path: Path, *cells: str) -> None:
    made = [
        {
            "cell_type": "code",
            "id": f"cell{k}",
            "metadata": {},
            "source": cell.strip(),
            "outputs": [],
            "execution_count": None,
        }
        for k, cell in enumerate(cells)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    whole = {"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(whole))


@pytest.fixture(scope="module")
def server(place: Path, browser: Any) -> Iterator[str]:
    notebook(place / "map.ipynb", ONE, TWO)
    notebook(place / "busy.ipynb", BUSY)
    with lab(place) as address:
        yield address


def open_notebook(browser: Any, address: str, name: str) -> Any:
    """A page on which all cells of a notebook have been run."""
    page = browser.new_page(viewport={"width": 1280, "height": 1900})
    page.set_default_timeout(PATIENCE)
    # A workspace of its own, so that nothing else is open in it.
    page.goto(f"{address}/lab/workspaces/{name.partition('.')[0]}/tree/{name}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # Cells run before the kernel is there are quietly not run.
    page.wait_for_function(
        """() => {
          const shown = window.jupyterapp?.shell.currentWidget;
          return shown?.sessionContext?.session?.kernel?.status === "idle" && shown.content.model;
        }"""
    )
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    return page


@pytest.fixture(scope="module")
def page(browser: Any, server: str, shots: Path) -> Iterator[Any]:
    found = open_notebook(browser, server, "map.ipynb")
    yield found
    found.screenshot(path=shots / "last.png")
    found.close()


class Map:
    """One of the maps on a page."""

    def __init__(self, page: Any, nth: int) -> None:
        self.page, self.nth, self.root = page, nth, page.locator(".pagemap").nth(nth)
        self.root.wait_for()
        self.canvas = self.root.locator("canvas.pagemap-cells")
        self.until("(root) => Number(root.dataset.answers) > 0")

    def until(self, what: str, given: object = None) -> None:
        """Wait until ``what(root, given)`` is true of the map as it is on the page then."""
        self.page.wait_for_function(
            f"""([nth, given]) => {{
              const root = document.querySelectorAll(".pagemap")[nth];
              return root && ({what})(root, given);
            }}""",
            arg=[self.nth, given],
            polling=50,
            timeout=PATIENCE,
        )

    def data(self, name: str) -> int:
        return int(self.root.get_attribute(f"data-{name}"))

    def colours(self) -> set[str]:
        """Colours of pixels that occur often, without white, background and shades of grey."""
        found = self.canvas.evaluate(
            """(node) => {
              const { data } = node.getContext("2d").getImageData(0, 0, node.width, node.height);
              const count = {};
              for (let at = 0; at < data.length; at += 4) {
                const [r, g, b, a] = data.subarray(at, at + 4);
                if (a === 255 && Math.max(r, g, b) - Math.min(r, g, b) > 12) {
                  count[[r, g, b]] = (count[[r, g, b]] || 0) + 1;
                }
              }
              return Object.keys(count).filter((colour) => count[colour] > 50);
            }"""
        )
        return set(found)

    def choose(self, what: str, name: str) -> None:
        self.root.locator(f'select[title="{what}"]').select_option(name)

    def point(self, across: float, down: float) -> tuple[float, float]:
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    def wheel(self, notches: int) -> None:
        """Turn the wheel by one notch at a time and wait for the cells of each."""
        for _ in range(abs(notches)):
            before = self.data("answers")
            self.page.mouse.wheel(0, 100 if notches > 0 else -100)
            self.until("(root, n) => Number(root.dataset.answers) > n", before)

    def wheel_to_one_page(self) -> int:
        """Zoom in until a cell is a page; gives the notches that took."""
        notches = 0
        while self.data("per") > 1:
            self.wheel(-1)
            notches += 1
        return notches


@pytest.fixture
def family(page: Any) -> Map:
    """The first map, as it is when it is first shown."""
    found = Map(page, 0)
    found.choose("space", "virtual")
    found.choose("colour by", "state")
    found.root.locator('button[title^="show all"]').click()
    found.until("(root) => root.dataset.first === '0' && Number(root.dataset.per) > 8")
    return found


@pytest.fixture
def own(page: Any) -> Map:
    return Map(page, 1)


def test_map_draws_what_the_legend_names(family: Map, shots: Path) -> None:
    family.page.screenshot(path=shots / "notebook.png")
    assert len(family.colours()) >= 3
    legend = family.root.locator(".pagemap-legend").inner_text()
    assert "anonymous, shared" in legend
    assert "MiB" in legend


def test_wheel_zooms_to_one_page_and_back_by_way_of_the_kernel(family: Map, shots: Path) -> None:
    whole = family.data("per")
    family.page.mouse.move(*family.point(0.5, 0.5))
    family.wheel(-1)
    assert whole / 2 <= family.data("per") < whole
    steps = 1 + family.wheel_to_one_page()
    assert family.data("first") > 0
    family.page.screenshot(path=shots / "zoomed.png")
    family.wheel(steps)
    assert (family.data("per"), family.data("first")) == (whole, 0)


def test_hover_tells_and_click_selects(family: Map, shots: Path) -> None:
    family.page.mouse.move(*family.point(0.5, 0.5))
    told = family.root.locator(".pagemap-told")
    playwright.expect(told).to_contain_text(re.compile("0x[0-9a-f]+ to 0x[0-9a-f]+"))
    family.wheel_to_one_page()
    family.page.mouse.move(*family.point(0.45, 0.45))
    playwright.expect(told).to_contain_text("It is in memory, in page frame")
    family.page.mouse.down()
    family.page.mouse.up()
    playwright.expect(told).to_contain_text("is page")
    label = family.page.locator(".widget-label", has_text="selected")
    playwright.expect(label).to_contain_text("selected 1 rows")
    family.page.keyboard.down("Shift")
    family.page.mouse.click(*family.point(0.5, 0.6))
    family.page.keyboard.up("Shift")
    playwright.expect(label).to_contain_text(re.compile(r"selected \d{2,} rows"))
    family.page.screenshot(path=shots / "selected.png")
    family.page.keyboard.press("Escape")
    playwright.expect(family.page.locator(".widget-label", has_text="let go")).to_be_visible()


def test_drag_moves(family: Map) -> None:
    family.page.mouse.move(*family.point(0.5, 0.5))
    family.wheel(-4)
    before = family.data("first")
    assert before > 0
    family.page.mouse.down()
    family.page.mouse.move(*family.point(0.5, 0.8), steps=4)
    family.page.mouse.up()
    family.until("(root, n) => Number(root.dataset.first) < n", before)


def test_keyboard_alone_moves_zooms_and_pins(family: Map) -> None:
    family.canvas.focus()
    family.page.keyboard.press("Home")
    family.until("(root) => root.dataset.first === '0' && Number(root.dataset.per) > 1")
    whole = family.data("per")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        family.page.keyboard.press(key)
    family.page.keyboard.press("+")
    family.until("(root, n) => Number(root.dataset.per) < n", whole)
    family.page.keyboard.press("Enter")
    playwright.expect(family.root.locator(".pagemap-told")).to_contain_text("Pinned: 0x")
    family.page.keyboard.press("-")
    family.until("(root, n) => Number(root.dataset.per) === n", whole)


def test_colours_and_space_can_be_chosen(family: Map, shots: Path) -> None:
    for space, color, word in (
        ("virtual", "sharers", "entries that map it"),
        ("virtual", "vma", "libc.so"),
        ("physical", "owner", "several"),
    ):
        family.choose("space", space)
        family.choose("colour by", color)
        playwright.expect(family.root.locator(".pagemap-legend")).to_contain_text(word)
        family.page.wait_for_timeout(300)
        assert family.colours()
        family.root.screenshot(path=shots / f"{space}-{color}.png")


def test_two_snapshots_show_and_flash_what_changed(own: Map, shots: Path) -> None:
    own.choose("colour by", "change")
    playwright.expect(own.root.locator(".pagemap-legend")).to_contain_text("faulted in")
    own.root.screenshot(path=shots / "changed.png")
    own.choose("colour by", "state")
    playwright.expect(own.root.locator(".pagemap-legend")).to_contain_text("anonymous")
    seen = set()
    for _ in range(12):
        seen.add(own.canvas.evaluate("(node) => node.toDataURL()"))
        own.page.wait_for_timeout(80)
    assert len(seen) > 3
    own.page.wait_for_timeout(2500)
    still = {own.canvas.evaluate("(node) => node.toDataURL()")}
    own.page.wait_for_timeout(300)
    assert {own.canvas.evaluate("(node) => node.toDataURL()")} == still


def test_live_mode_pushes_cells_until_it_is_told_to_stop(own: Map, shots: Path) -> None:
    box = own.root.locator('input[type="checkbox"]')
    before = own.data("answers")
    box.check()
    own.until("(root, n) => Number(root.dataset.answers) > n + 3", before)
    own.choose("colour by", "age")
    playwright.expect(own.root.locator(".pagemap-legend")).to_contain_text("at the last look")
    own.root.screenshot(path=shots / "live.png")
    box.uncheck()
    own.page.wait_for_timeout(1000)  # the last look may be under way
    after = own.data("answers")
    own.page.wait_for_timeout(1000)
    assert own.data("answers") == after


def test_live_mode_draws_while_the_kernel_is_busy(browser: Any, server: str) -> None:
    found = open_notebook(browser, server, "busy.ipynb")
    shown = Map(found, 0)  # which the busy kernel cannot have been asked for
    busy = found.locator('.jp-Notebook-ExecutionIndicator[data-status="busy"]')
    before = shown.data("answers")
    shown.until("(root, n) => Number(root.dataset.answers) > n + 1", before)
    assert busy.count() == 1
    found.close()


def test_the_map_of_the_quickstart_draws_zooms_tells_and_pins(
    browser: Any, tmp_path: Path, shots: Path
) -> None:
    (found,) = NOTEBOOKS.glob("*quickstart*.ipynb")
    (tmp_path / "quickstart.ipynb").write_bytes(found.read_bytes())
    with lab(tmp_path) as address:
        page = open_notebook(browser, address, "quickstart.ipynb")
        shown = Map(page, 0)
        page.mouse.move(*shown.point(0.5, 0.5))
        assert shown.colours()
        page.screenshot(path=shots / "quickstart.png")
        shown.wheel_to_one_page()
        told = shown.root.locator(".pagemap-told")
        page.mouse.move(*shown.point(0.45, 0.45))
        playwright.expect(told).to_contain_text("It is in memory, in page frame")
        page.mouse.down()
        page.mouse.up()
        playwright.expect(told).to_contain_text("Pinned: 0x")
        page.screenshot(path=shots / "quickstart-pinned.png")
        page.close()
