"""Asking for answers, reading them, and comparing texts: what several domains share.

All of it takes time linear in the text, and nothing here raises.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Lazy or backtracking patterns are quadratic on hostile text, so tags are found by plain searches.
OPEN, CLOSE = "<answer>", "</answer>"
BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)  # an escaped brace is text, as in \{1, 2\}
FENCE = "```"
RUN = re.compile("`{3,}")
ITEM = re.compile(r"[ \t]*(?:[-*+]|[0-9]{1,9}[.)])[ \t]+")  # what stands before the first line of a list's item
TILDES = re.compile(rf"(?P<head>{ITEM.pattern}|[ \t]*)(?P<mark>~{{3,}})")
QUOTES = 8  # quotes inside of each other that are read as such
QUOTE = re.compile(rf"(?:{ITEM.pattern}|[ \t]*)(?P<signs>>(?:[ \t]*>){{,{QUOTES - 1}}})[ \t]?")
WORDS = 3  # words of a shingle
# Signs of arithmetic tell two short problems apart. A minus is one before a digit only; elsewhere it may be a hyphen.
SIGNS = "+*/^=<>\u00d7\u00f7\u221a\u2264\u2265\u2260"
AFTER_SIGN = re.compile(rf"(?<=[{re.escape(SIGNS)}])[^\w{re.escape(SIGNS)}\u2212-]+")
# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese. Each of their signs is a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
LETTER = rf"[^\W{UNSPACED}]"
WORD = re.compile(rf"[{UNSPACED}]|[{re.escape(SIGNS)}]+{LETTER}*|[\u2212-](?=\d){LETTER}+|{LETTER}+")


class Block(NamedTuple):
    """A fenced block."""

    info: str  # what stands behind the opening fence, such as the language
    text: str


class _Fence(NamedTuple):
    """The line that opens a block."""

    mark: str  # what closes it
    margin: int  # characters before it
    item: bool  # it begins an item of a list, whose first line is still to come
    info: str
    quotes: int  # inside of each other, around it


class Example(NamedTuple):
    """A worked example of a prompt."""

    problem: str
    reasoning: str
    result: str


def worked(instruction: str, examples: Iterable[Example], problem: str) -> str:
    """Returns a prompt: the instruction, worked examples and the problem."""
    shown = [
        f"\nProblem: {example.problem}\n<reasoning>{example.reasoning}</reasoning>\n{OPEN}{example.result}{CLOSE}\n"
        for example in examples
    ]
    return f"{instruction}{''.join(shown)}\nProblem: {problem}"


def tagged(text: str) -> str | None:
    """Returns what stands between the last `<answer>` and the `</answer>` after it, stripped; None without both."""
    start = text.rfind(OPEN)
    if start < 0:
        return None
    end = text.find(CLOSE, start)
    return text[start + len(OPEN) : end].strip() if end >= 0 else None


def well_formed(text: str) -> bool:
    """Whether a text is `<reasoning>...</reasoning> <answer>...</answer>`, each tag once and nothing around them."""
    tags = ["<reasoning>", "</reasoning>", OPEN, CLOSE]
    places = [text.find(tag) for tag in tags]
    if any(text.count(tag) != 1 for tag in tags) or places != sorted(places):
        return False
    before, between, after = (
        text[: places[0]],
        text[places[1] + len(tags[1]) : places[2]],
        text[places[3] + len(CLOSE) :],
    )
    return not (before.strip() or between.strip() or after.strip())


def answered(result: str) -> str:
    """Returns a text that is well formed and has a result, without any reasoning."""
    return f"<reasoning></reasoning>\n{OPEN}{result}{CLOSE}"


class Box(NamedTuple):
    """A `\\boxed{...}` in a text: where it starts and ends, and its content."""

    start: int
    end: int
    content: str


def last_box(text: str) -> Box | None:
    r"""Returns the last `\boxed{...}`, braces balanced, and the outermost of nested ones; None where there is none.

    None too where the last one is never closed.
    """
    opened: list[tuple[int, int] | None] = []  # for each open brace: where its box and its content start, if it has one
    last: Box | None = None  # that was closed
    latest = -1  # where the last one starts, closed or not
    for brace in BRACE.finditer(text):
        if brace["box"]:
            latest = brace.start()
            opened.append((brace.start(), brace.end()))
        elif brace.group() == "{":
            opened.append(None)
        elif brace.group() == "}" and opened and (box := opened.pop()) is not None:
            last = Box(box[0], brace.end(), text[box[1] : brace.start()].strip())
    return last if last is not None and latest < last.end else None


def boxed(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}`, as `last_box` finds it; None where there is none."""
    box = last_box(text)
    return box.content if box is not None else None


def fenced(text: str) -> list[Block]:
    """Returns the fenced blocks of a text that hold anything, in their order.

    A fence closes a block at the start of a line, no deeper than it was opened, or in a list than the block's first
    line. Others are part of the code, but for one at the end of a line where no other follows. A text may also end
    inside of a block. What is in an item of a list loses the item's indentation, and what is in a quote its `>`.
    """
    found: list[tuple[_Fence, list[str]]] = []
    fence: _Fence | None = None
    lines: list[str] = []
    glued = deepest = 0
    for rest in text.split("\n"):
        if fence is not None:
            line = _unquoted(rest, fence.quotes)
            bare = line.lstrip(" \t")
            indentation = len(line) - len(bare)
            if indentation > deepest or not bare.startswith(fence.mark):
                if fence.item and bare.strip():  # an item may be indented further than its first line says
                    fence, deepest = fence._replace(item=False), max(deepest, indentation)
                lines.append(line)
                if not glued and line.rstrip().endswith(fence.mark):
                    glued = len(lines)
                continue
            found.append((fence, lines))
            fence = None
            behind = bare.lstrip(bare[0])
            rest = bare if behind[:1].isalpha() else behind  # a fence with a language opens the next block
        fence = _opened(rest)
        lines, glued, deepest = [], 0, fence.margin if fence else 0
    if fence is not None and glued:
        lines = [*lines[: glued - 1], lines[glued - 1].rstrip().rstrip(fence.mark[0])]
    if fence is not None:
        found.append((fence, lines))
    return [
        Block(fence.info, _without_margin(lines, fence.margin)) for fence, lines in found if any(map(str.strip, lines))
    ]


def last_block(text: str) -> str:
    """Returns what stands in the last fenced block, or the whole text where there is none."""
    blocks = fenced(text)
    return blocks[-1].text if blocks else text


def _opened(line: str) -> _Fence | None:
    """The fence that a line opens; one of backticks may stand behind other words."""
    if quote := QUOTE.match(line):
        line = line[quote.end() :]
    quotes = quote["signs"].count(">") if quote else 0
    if tildes := TILDES.match(line):
        return _Fence(tildes["mark"], len(tildes["head"]), bool(tildes["head"].strip()), line[tildes.end() :], quotes)
    before, mark, info = line.rpartition(FENCE)
    head = before.rstrip("`")
    if not mark or "`" in info or len(RUN.findall(head)) % 2:  # or it is the end of code in a line
        return None
    item = ITEM.fullmatch(head) is not None
    margin = len(head) if item else len(line) - len(line.lstrip(" \t"))
    return _Fence("`" * (len(before) - len(head) + len(mark)), margin, item, info, quotes)


def _unquoted(line: str, quotes: int) -> str:
    """A line without the signs of as many quotes; it may lack some, and one space behind them is theirs."""
    signs = re.match(rf"(?:[ \t]*>){{1,{quotes}}}[ \t]?", line) if quotes else None
    return line[signs.end() :] if signs else line


def _without_margin(lines: Sequence[str], margin: int) -> str:
    cut = min([margin, *(len(line) - len(line.lstrip(" \t")) for line in lines if line.strip())])
    return "".join(line[cut:] + "\n" for line in lines)


def shingles(text: str) -> frozenset[str]:
    """Returns the runs of `WORDS` words of a text; a shorter text is one run.

    A word is of letters and digits, with the signs of arithmetic before it. Other signs say nothing. In a script
    without spaces, such as Chinese, a word is one character.
    """
    words = WORD.findall(AFTER_SIGN.sub("", text.casefold()))
    if len(words) <= WORDS:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[index : index + WORDS]) for index in range(len(words) - WORDS + 1))
