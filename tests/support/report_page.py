"""The report as its tests read it: parsed, planted, and as a browser leaves it."""

import shutil
import subprocess
from html.parser import HTMLParser

from eval.reports.page import report
from tests.support.reports import write_bill, write_sweep_folder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The tree of a page, flat: every element with its attributes, its path of tags and its whole text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.stack = [], []
        self.feed(text)
        assert not self.stack, [e["tag"] for e in self.stack]

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "inside": list(self.stack), **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack[-1]["tag"] == tag, (self.stack[-1]["tag"], tag)
        self.stack.pop()

    def handle_data(self, data):
        for element in self.stack:
            element["text"] += data

    def all(self, tag, **wanted):
        wanted = {"tag": tag} | {name.rstrip("_"): value for name, value in wanted.items()}
        return [e for e in self.elements if wanted.items() <= {**e, "inside": None}.items()]

    def one(self, tag, **wanted):
        (found,) = self.all(tag, **wanted)
        return found

    def within(self, element, tag):
        return [e for e in self.elements if e["tag"] == tag and any(x is element for x in e["inside"])]


def cells(page, table):
    """A table's body as text without the intervals, and those; each row has its heading first."""

    def shown(cell):
        small = "".join(e["text"] for e in page.within(cell, "small"))
        return cell["text"].removesuffix(small).strip(), small

    rows = page.within(page.one("table", id=table), "tr")[1:]
    return [[shown(cell) for tag in ("th", "td") for cell in page.within(row, tag)] for row in rows]


def plant(base):
    """A bill of three models with fast and slow thinking, and a sweep of all blocks of a model of 12 layers."""
    write_bill(base / "bill", n=120)
    write_sweep_folder(base / "sweep", layers=12, sizes="0-6", n=60)
    report(base / "bill", sweep=base / "sweep", out=base / "all.html")
    return base


def browser(*words, path, tmp_path):
    """Open a page without a window; what the browser did."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *words, path.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


def browse(path, tmp_path):
    """The page as a browser leaves it, and what it wrote to its console."""
    done = browser("--dump-dom", path=path, tmp_path=tmp_path)
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), console
