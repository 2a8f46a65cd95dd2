"""The look of all pages, and the parts of which they are made. Whatever is passed as text is escaped."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from tasks.gdsd.config import written

# The figures name these colours too, so that they follow the reader's light or dark mode.
STYLE = """
:root { color-scheme: light dark; --bg: #faf9f7; --card: #fff; --fg: #1d1c1a; --muted: #67635d; --line: #e3dfd8;
  --a: #1f62a8; --b: #bd4f12; --good: #17713f; --bad: #b0241c; --warn: #865300; }
@media screen and (prefers-color-scheme: dark) { :root { --bg: #13151a; --card: #1b1e25; --fg: #e9e7e3;
  --muted: #a09c95; --line: #31353e; --a: #74b3f3; --b: #f09a5e; --good: #5cc98e; --bad: #f4867f; --warn: #e8b95a; } }
body { margin: 0; background: var(--bg); color: var(--fg); }
main { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 76rem; margin: 0 auto;
  padding: 1rem clamp(.75rem, 2.5vw, 2rem) 3rem; color: var(--fg); background: var(--bg); overflow-wrap: anywhere; }
main * { box-sizing: border-box; }
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.25rem 0 .4rem; }
p { margin: .5rem 0; max-width: 60rem; } .muted, .sub { color: var(--muted); } .sub { margin: .1rem 0 .8rem; }
a { color: var(--a); } .good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; margin: .5rem 0; }
.scroll table { border-collapse: collapse; overflow-wrap: normal; }
.scroll td, .scroll th { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; font-variant-numeric: tabular-nums; white-space: nowrap; }
.scroll th { font-weight: inherit; } .scroll thead th, .scroll caption { color: var(--muted); font-weight: 600;
  font-size: .85rem; } .scroll caption { text-align: left; padding-bottom: .2rem; }
pre, code { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .75rem;
  margin: .4rem 0; overflow-x: auto; overflow-wrap: normal; }
details > summary { cursor: pointer; color: var(--a); margin: .5rem 0; }
.warning { border-left: 4px solid var(--warn); background: var(--card); padding: .5rem .75rem; margin: .6rem 0;
  font-size: .9rem; max-width: none; }
.top { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 30rem); gap: 1rem; align-items: stretch; }
.tiles { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .75rem; }
.tile, figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .85rem;
  margin: 0; min-width: 0; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.2; margin: .1rem 0 .25rem; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.tile p { margin: 0; font-size: .85rem; line-height: 1.4; color: var(--muted); }
.tile .question { font-size: .8rem; font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: .75rem; }
figure { display: flex; flex-direction: column; justify-content: space-between; }
figcaption { font-size: .85rem; line-height: 1.4; margin-bottom: .35rem; display: flex; flex-wrap: wrap; gap: 0 .9em; }
figcaption b, figcaption small { flex-basis: 100%; } figcaption b span { font-weight: 400; margin-left: .4em; }
figcaption small { font-size: .78rem; line-height: 1.35; color: var(--muted); margin-bottom: .15rem; }
figure svg { display: block; width: 100%; height: auto; } figure:not(.printed) svg { max-width: 36rem; }
svg text { font-family: inherit; }
.key::before { content: ""; display: inline-block; width: .9em; height: .25em; border-radius: 2px; margin-right: .35em;
  vertical-align: middle; background: currentColor; } .a { color: var(--a); } .b { color: var(--b); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .85rem .75rem;
  margin: .6rem 0; } .pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 1rem; }
.side { margin: .35rem 0 .2rem; font-size: .85rem; } .card pre { background: var(--bg); margin: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16rem; overflow-y: auto; }
.card .remark { border-left: 4px solid var(--muted); margin-top: .4rem; }
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.grid table { border-collapse: collapse; border: 2px solid var(--muted); font: 15px/1 ui-monospace, Menlo, monospace; }
.scroll.grid td { position: relative; width: 2.9rem; height: 2.4rem; padding: 0 .2rem; text-align: center;
  vertical-align: middle; border: 1px solid var(--line); }
.grid td.over { border-right: 2px solid var(--muted); } .grid td.down { border-bottom: 2px solid var(--muted); }
.grid .given bdi { font-weight: 700; } .grid .missing { outline: 1px dashed var(--muted); outline-offset: -5px; }
.grid .right { box-shadow: inset 0 -3px var(--good); } .grid .wrong { box-shadow: inset 0 0 0 2px var(--bad); }
.grid i { font-style: normal; font-size: 12px; margin-left: 2px; } .grid sub { font-size: 11px; margin-left: 2px; }
.strip { margin: .4rem 0 0; font: 13px/1.9 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; }
.strip bdi { display: inline-block; max-width: 100%; padding: .15em .3em; border-radius: 3px; margin-right: 2px; }
.strip sub { margin-left: 2px; }
.t0 { background: rgba(74, 144, 226, 0.05); } .t1 { background: rgba(74, 144, 226, 0.11); }
.t2 { background: rgba(74, 144, 226, 0.16); } .t3 { background: rgba(74, 144, 226, 0.22); }
.t4 { background: rgba(74, 144, 226, 0.27); } .t5 { background: rgba(74, 144, 226, 0.33); }
.t6 { background: rgba(74, 144, 226, 0.38); } .t7 { background: rgba(74, 144, 226, 0.43); }
.t8 { background: rgba(74, 144, 226, 0.49); } .t9 { background: rgba(74, 144, 226, 0.55); }
.steps td, .steps th { border: 0; padding: 0 .8rem 0 0; white-space: pre;
  font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.steps th { color: var(--muted); text-align: right; }
.printed { background: #fff; } /* a figure in colours of its own */
#flyte-frame-container > div.active { padding: 0; }
@media (max-width: 44rem) { .pair { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 62rem) { .top { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 30rem) { main { padding-top: .6rem; } .tiles { gap: .5rem; } .tile { padding: .5rem .6rem; }
  .tile b { font-size: 1.15rem; } .tile p, figcaption { font-size: .78rem; line-height: 1.35; }
  .sub { font-size: .82rem; } .top { gap: .5rem; } }
@page { margin: 12mm; }
@media print { :root { --bg: #fff; } main { font-size: 13px; } * { print-color-adjust: exact; } /* or no legend */
  .scroll, .text, pre { overflow: visible; max-height: none; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .scroll td, .scroll th { white-space: normal; overflow-wrap: anywhere; } .scroll.grid td { height: 1.5rem; }
  .pair { grid-template-columns: repeat(2, minmax(0, 1fr)); } h2, h3, .side, caption { break-after: avoid; }
  figure, tr, .tile, .warning, .scroll, .card, .pair { break-inside: avoid; } }
"""


# A page has all that it needs. Texts are escaped; if one were not, a browser would still neither run nor fetch it.
ALLOWED = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Tile:
    """A question of the reader, its answer in a few words, and what stands behind it."""

    question: str
    answer: str
    more: str
    tone: str = ""  # good, bad or none


def document(title: str, parts: Iterable[str], refresh: str = "") -> str:
    """Returns a whole page of parts that are HTML.

    Args:
        refresh: seconds after which a browser loads the page anew; with `; url=` and an address it goes there.
    """
    return "\n".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            f"<meta http-equiv='Content-Security-Policy' content=\"{ALLOWED}\">",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            *([f"<meta http-equiv='refresh' content='{html.escape(refresh)}'>"] if refresh else []),
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>",
            *parts,
            "</main></body></html>",
        ]
    )


def tiles(shown: Iterable[Tile]) -> str:
    """Returns the answers that a page begins with."""
    parts = [
        f"<div class='tile'><p class='question'>{html.escape(tile.question)}</p>"
        f"<b class='{tile.tone}'>{html.escape(tile.answer)}</b><p>{html.escape(tile.more)}</p></div>"
        for tile in shown
    ]
    return f"<div class='tiles'>{''.join(parts)}</div>"


def table_html(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table, which scrolls in itself where it is wider than the page; the first cell of a row names it."""
    top = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return (
        f"<div class='scroll'><table><caption>{html.escape(caption)}</caption>"
        f"{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table></div>"
    )


def table_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown; whoever calls escapes what is no text of ours."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def as_yaml(config: BaseModel) -> str:
    """Returns a configuration as a file has it."""
    return written.write(config.model_dump(mode="json"))
