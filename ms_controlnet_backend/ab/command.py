"""``ms-controlnet compare``: a script compared, the table printed, the reports written, the verdict as exit code."""

from __future__ import annotations

import sys
import traceback

from . import html
from .compare import Settings
from .script import compare_script
from .table import show


def run(options) -> int:
    """0: the same; 1: different, or nothing compared, or the script failed; 2: bad options; 130: interrupted."""
    for path in (options.html, options.json):
        if path is not None and not path.parent.is_dir():
            print(f"ms-controlnet: no folder {path.parent}", file=sys.stderr)
            return 2
    if options.html is not None:
        html.require()  # before the long run, not after it
    try:
        settings = Settings.of(options.backends, options.device, repeats=options.repeats, shadow=options.shadow,
                               bisect=options.bisect)  # fmt: skip
    except ValueError as error:  # UnknownBackend and UnknownDevice are ValueErrors too
        print(f"ms-controlnet: {error}", file=sys.stderr)
        return 2
    report, ended = compare_script(options.script, options.arguments, settings, options.redirect)
    if options.json is not None:
        options.json.write_text(report.to_json(), encoding="utf-8")
    if options.html is not None:
        options.html.write_text(html.render(report), encoding="utf-8")
    show(report)  # after the files: whoever reads it may close the pipe early
    if report.interrupted:
        return 130
    if isinstance(ended, SystemExit):
        print(f"ms-controlnet: the script exited with {ended.code!r}", file=sys.stderr)
    elif ended is not None:
        print("ms-controlnet: the script failed:", file=sys.stderr)
        traceback.print_exception(ended)
    return 0 if report.ok and ended is None else 1
