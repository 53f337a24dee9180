"""A report as HTML that stands alone, opens without a network and runs no other code."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from eval.reports.model import Report


def render_report(report: Report) -> str:
    """A report as a page.

    Its style and its script stand inside it and are allowed by their hashes; the page may load nothing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from eval.reports.model import STATES
    from prune.common.screen.tables import subscripts

    environment = Environment(loader=PackageLoader("eval.reports"), autoescape=True, undefined=StrictUndefined)
    environment.filters["subscripts"] = subscripts
    style, script = "\n".join(map(template, ("figures.css", "report.css"))), template("report.js")
    return environment.get_template("report.html.j2").render(
        states=STATES,
        report=report,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def template(name: str) -> str:
    """A file that the page is made of."""
    return (files("eval.reports") / "templates" / name).read_text("utf-8").strip()


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
