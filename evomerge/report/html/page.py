"""The report page: data, style, scripts and plotly.js in one file that loads nothing from the network.

Everything that a study brings is escaped: by Jinja in the tables, in the JSON by writing `<`, `>` and `&` as escapes.
Scripts run only if their hash is in the page's own security policy. https://www.w3.org/TR/CSP3/
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from evomerge import __version__
from evomerge.report import words
from evomerge.report.html import formatting
from evomerge.statistics import p_text

_PACKAGE = "evomerge.report.html"
#: One script, in the order of what needs what.
_SCRIPTS = ("tools.js", "front.js", "progress.js", "knob.js", "chosen.js", "page.js")


def page(data: Mapping[str, Any]) -> str:
    """Render a report as HTML. data: from `document`."""
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "estimate": formatting.estimate,
        "gain": formatting.gain,
        "mean": formatting.mean,
        "plus_minus": formatting.plus_minus,
        "p": p_text,
        "percent": formatting.percent,
        "number": formatting.number,
        "duration": words.duration,
    }
    folder = files(_PACKAGE)
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    plotly = get_plotlyjs()
    return environment.get_template("report.html.jinja").render(
        data=data,
        tables=formatting.tables(data),
        version=__version__,
        json=embedded(data),
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=script,
        plotly=plotly,
        policy=_policy(plotly, script),
    )


def embedded(data: Mapping[str, Any]) -> str:
    """Encode data as JSON for a script element, so that no text in it can end the element or begin a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def _policy(*scripts: str) -> str:
    """Return the content security policy: only these scripts run, and nothing is loaded; Plotly sets styles."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
