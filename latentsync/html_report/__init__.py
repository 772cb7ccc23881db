"""HTML reports: one page template, one style sheet and one set of charts, for data processing and for evaluation.

A report's own template extends `base.html` and is beside the code that fills it. The page contains its style and its
pictures, so it is one file that loads nothing from elsewhere.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """The page of a template file; text among the values is escaped, `Markup` such as charts is not.

    Raises jinja2.UndefinedError if the template uses a value that is not given.
    """
    environment = Environment(
        loader=FileSystemLoader([FOLDER, template.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((FOLDER / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(style=style, **values) + "\n"
