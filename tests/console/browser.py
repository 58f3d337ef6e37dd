"""A headless Chromium on the console's page: what tests ask of it, and what holds for every page it opens."""

import base64
import contextlib
import pathlib

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from checking import wait_for

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 30_000
# Chromium's own sandbox needs rights that containers often do not give; the only page it opens is ours.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars"]
# All rules of the two levels that laws ask for, and those of good practice.
AXE = {"resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

LOOKS = {}


class Browser:
    """Everything that a page must never do is noted, and failed for at the end."""

    def __init__(self, base):
        self.base = base
        self.playwright = sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        self.breaches = []
        self.excuse = False

    def open(self, address="", scheme="light", width=1280, height=800, clock=False, bypass_csp=False):
        context = self.chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", locale="en-US", bypass_csp=bypass_csp)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("console", lambda message: self.heard(f"{message.type}: {message.text}", message.type in ("error", "warning")))
        page.on("pageerror", lambda error: self.heard(f"exception: {error}", True))
        page.on("dialog", lambda dialog: (self.breaches.append(f"a dialog opened: {dialog.message}"), dialog.dismiss()))
        page.on("request", self.asked)
        LOOKS[page] = 0
        page.on("requestfinished", lambda request: LOOKS.update({page: LOOKS[page] + ("/api/rates" in request.url)}))
        if clock:
            page.clock.install()
        page.goto(f"{self.base}/console/#{address}")
        settled(page)
        return page

    @contextlib.contextmanager
    def excused(self):
        """While requests fail because that is what is tested: the browser says so in its console."""
        self.excuse = True
        yield
        self.excuse = False

    def heard(self, what, bad):
        if bad and not self.excuse:
            self.breaches.append(what)

    def asked(self, request):
        if not request.url.startswith((f"{self.base}/", "data:")):
            self.breaches.append(f"asked another host: {request.url}")
        if request.method != "GET":
            self.breaches.append(f"{request.method} {request.url}")

    def close(self):
        self.chromium.close()
        self.playwright.stop()


def settled(page):
    """The view shows what the agent said."""
    page.wait_for_selector("#view:not([aria-busy])", state="attached")


def go(page, address):
    """Goes to an address of the page, as a link does."""
    page.evaluate("address => { location.hash = address }", address)
    page.wait_for_function("address => location.hash === '#' + address", arg=address)
    settled(page)


def table(page, name):
    """A table's rows as texts, cell by cell."""
    return page.locator(f"#{name} tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, ' ').trim()))")


def facts(page, name="facts"):
    """Names and values of a list of facts."""
    pairs = page.locator(f"[data-key={name}] > div").evaluate_all(
        "all => all.map(one => [one.querySelector('dt').innerText, one.querySelector('dd').innerText.replace(/\\s+/g, ' ').trim()])")
    return dict(pairs)


def focused(page):
    """What the keyboard is at: its id or text."""
    return page.evaluate("() => { const at = document.activeElement; return at.id || at.innerText || at.nodeName }")


def looks(page, number, since):
    """Waits until the page has looked so many times more."""
    wait_for(f"look {since + number} of the page", lambda: asks(page) >= since + number)


def asks(page):
    """How often the page has looked so far: each look asks for the rates, and is answered."""
    page.evaluate("() => 0")
    return LOOKS[page]


def violations(page):
    """What axe finds wrong with what is shown now."""
    found = Axe().run(page, options=AXE).response["violations"]
    return [f"{one['id']}: {one['help']}: {node['html'][:160]}" for one in found for node in one["nodes"][:3]]


def colours(page, png):
    """How many colours a picture has: one that shows nothing has few."""
    return page.evaluate(
        """async data => {
          const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
          const image = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
          const canvas = new OffscreenCanvas(image.width, image.height);
          const context = canvas.getContext('2d');
          context.drawImage(image, 0, 0);
          return new Set(new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer)).size;
        }""",
        base64.b64encode(pathlib.Path(png).read_bytes()).decode())
