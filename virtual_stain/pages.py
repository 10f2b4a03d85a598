"""HTML pages from a package's templates: one way to fill them, for every page that the program writes or serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def page_environment(package: str) -> jinja2.Environment:
    """Jinja2 over `package`/templates and the style that pages share (templates/page.css).

    Names and reasons are somebody else's text, so everything is escaped; a value that is missing is an error and never
    an empty place on a report.
    """
    import jinja2

    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("virtual_stain")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
