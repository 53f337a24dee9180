"""Hooks of mkdocs: the site also has bench/README.md, as measurements.md, so that pages can link to it as on GitHub."""

import re
from pathlib import Path

from mkdocs.structure.files import File

SOURCE = Path(__file__).resolve().parents[1] / "bench" / "README.md"
PAGE = "measurements.md"


def on_files(files, config):
    text = SOURCE.read_text("utf-8").replace("](../docs/", "](")
    files.append(File.generated(config, PAGE, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    return re.sub(r"\]\(((?:\.\./)*)\.\./bench/README\.md", rf"](\1{PAGE}", markdown)
