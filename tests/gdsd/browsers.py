"""A real browser for tests of pages; they are skipped, with a reason, where there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, Route, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")
# Sizes of a window, in CSS pixels.
DESKTOP, PHONE, SMALL_PHONE = (1280, 800), (390, 844), (360, 740)

# Of each kind of text: the least contrast with what lies behind it, over all that is half transparent.
CONTRASTS = """selectors => {
  const parse = text => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return numbers.length < 4 ? [...numbers.slice(0, 3), 1] : numbers;
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = node => {
    if (!node) return [255, 255, 255, 1];
    const own = parse(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = colour => {
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = colour.slice(0, 3).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const found = {};
  for (const selector of selectors) {
    const contrasts = [...document.querySelectorAll(selector)].map(node => {
      const back = behind(node), style = getComputedStyle(node);
      const front = over(parse(node instanceof SVGElement ? style.fill : style.color), back);
      const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
      return (high + .05) / (low + .05);
    });
    found[selector] = contrasts.length ? Math.min(...contrasts) : null;
  }
  return found;
}"""


@dataclass
class Seen:
    """What a browser did with a page."""

    page: Page
    complaints: list[str] = field(default_factory=list)  # errors, lines on the console, dialogs
    requests: list[str] = field(default_factory=list)  # addresses that it asked for; none is answered

    def wide(self) -> bool:
        """Whether the page has to be moved sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def bottom(self, selector: str) -> float:
        """Returns the lowest place of the elements that a selector matches, in pixels from the top of the window."""
        found = self.page.eval_on_selector_all(selector, "all => all.map(one => one.getBoundingClientRect().bottom)")
        return max(map(float, found))

    def text(self) -> str:
        """Returns all that a reader could select."""
        return str(self.page.evaluate("document.body.innerText"))


@contextmanager
def browser() -> Iterator[Browser]:
    """Starts the system's chromium; its own sandbox does not work for root."""
    with sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        running = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(running: Browser, html: str, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Iterator[Seen]:
    """Shows a page in a window of a size, without a network."""
    page = running.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    seen = Seen(page)

    def refuse(route: Route, request: Request) -> None:
        seen.requests.append(request.url)
        route.abort()

    def complain(message: ConsoleMessage) -> None:
        if "ERR_FAILED" not in message.text:  # of what was refused above
            seen.complaints.append(message.text)

    def dismiss(dialog: Dialog) -> None:
        seen.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def fail(error: Error) -> None:
        seen.complaints.append(str(error))

    page.route("**/*", refuse)
    page.on("console", complain)
    page.on("dialog", dismiss)
    page.on("pageerror", fail)
    try:
        page.set_content(html, wait_until="load")
        yield seen
    finally:
        page.close()
