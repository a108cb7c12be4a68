"""The report: JSON that keeps its shape, HTML that needs nothing else and works in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import models
import numpy as np
import PIL.Image
import pytest
import sides

from ms_controlnet_backend import compare
from ms_controlnet_backend.ab import table

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)


@pytest.fixture(scope="module")
def report():
    """Two pictures that differ visibly, a shadow run, a measured run."""
    with sides.backend("bent", sides.bent("vae.decoder", "conv_out.weight", 1.5)):
        return compare(models.pipeline(), backends=("torch", "bent"), shadow=True, bisect=True, progress=False,
                       **models.call_kwargs(num_inference_steps=2, num_images_per_prompt=2))  # fmt: skip


@pytest.fixture
def page(report, tmp_path):
    return report.save(tmp_path / "report.html")


def test_json_schema_is_stable(report, tmp_path):
    """Keys of version 1 are never taken away; a new one belongs here and into the docstring of Report.to_dict."""
    data = json.loads(report.save(tmp_path / "r.json").read_text())
    assert (data["schema"], data["version"]) == ("ms-controlnet-compare", 1)
    distance = {"max_abs", "relative_rms", "cosine", "finite"}
    place = {"component", "call", "stage", "step"}
    assert set(data) == {"schema", "version", "ok", "complete", "problem", "backends", "environment", "calls"}
    (call,) = data["calls"]
    assert set(call) == {
        "pipeline", "ok", "complete", "dtype", "tolerance", "checks", "notes", "errors", "pictures", "outputs", "steps",
        "growth", "components", "shadow", "first_difference", "bisect", "runs",
    }  # fmt: skip
    assert set(call["checks"][0]) == {"name", "ok", "value", "limit", "detail"}
    assert set(call["tolerance"]) == {"component", "operator", "latents", "off", "mean", "why"}
    assert set(call["pictures"][0]) == {"index", "shape", "psnr", "ssim", "max_abs", "mean_abs", "off", "defects"}
    assert set(call["steps"][0]) == {"step"} | distance
    entry = place | {"output", "shape", "dtype"} | distance
    assert set(call["components"][0]) == set(call["shadow"][0]) == set(call["first_difference"]) == entry
    assert set(call["bisect"]) == {"first", "worst", "compared", "refused", "conclusion"}
    assert set(call["bisect"]["worst"]) == {"component", "overload", "schema", "module", "node", "output", "shape",
                                            "dtype"} | distance  # fmt: skip
    assert set(call["runs"][0]) == {
        "backend", "kind", "seconds", "step_seconds", "components", "peak_bytes", "growth_bytes", "device_bytes",
        "counters", "upstream_calls", "component_calls", "timeline",
    }  # fmt: skip
    assert set(call["runs"][0]["timeline"][0]) == place | {"start", "seconds", "compiled"}
    documented = type(report).to_dict.__doc__
    assert not [key for key in (*data, *call, *call["runs"][0], *call["pictures"][0]) if key not in documented]


def test_counters_of_any_name_are_shown(report):
    """What a backend counts (bytes copied, say) needs no code here."""
    run = next(r for r in report.calls[0].runs if (r.backend, r.kind) == ("bent", "measured"))
    run.counters["host_to_device_bytes"] = 4096.0
    cost = table.sections(report.calls[0])[-1]
    run.counters.clear()
    assert ("host to device bytes, last run", "-", "4096") in cost.rows


def test_html_is_self_contained(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "@import" not in text and "url(" not in text and "http://" not in text and "https://" not in text
    for kind, content in re.findall(r'"data:(image/[a-z+]+);base64,([^"]+)"', text):
        raw = base64.b64decode(content)
        assert raw.startswith(b"\x89PNG") if kind == "image/png" else b"</svg>" in raw
    assert text.count("data:image/svg+xml") == 2 and text.count("data:image/png") == 6


def test_html_shows_the_pictures_and_their_difference(page, report):
    content = re.findall(r'"data:image/png;base64,([^"]+)"', page.read_text())
    reference, other, difference = (
        np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(c))), int) for c in content[:3]
    )
    picture = report.calls[0].pictures[0]
    assert np.abs(reference / 255 - picture.reference).max() < 1 / 255
    assert np.abs(other / 255 - picture.other).max() < 1 / 255
    wanted = np.clip(np.abs(picture.other - picture.reference) * 16, 0, 1)
    assert np.abs(difference / 255 - wanted).max() < 1 / 255 and difference.max() > 50


def test_html_escapes_what_others_wrote(report, tmp_path):
    report.calls[0].notes.append("<script>alert(1)</script>")
    text = report.save(tmp_path / "r.html").read_text()
    report.calls[0].notes.pop()
    assert "&lt;script&gt;alert(1)" in text and "<script>alert" not in text


def test_the_table_is_plain_when_piped_and_rich_on_a_terminal(report):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    piped, terminal = io.StringIO(), Terminal()
    table.show(report, piped)
    table.show(report, terminal)
    assert piped.getvalue() == str(report) + "\n"
    assert "┃" in terminal.getvalue() and "┃" not in piped.getvalue() and "\x1b" not in piped.getvalue()
    for text in (piped.getvalue(), terminal.getvalue()):
        assert "DIFFERENT: bent against torch" in text and "vae.decoder" in text and "PSNR" in text


def browse(page: Path, *arguments):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--window-size=1200,1600", f"--user-data-dir={page.parent / 'profile'}", *arguments, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=page.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")


@needs_browser
def test_in_a_browser(page):
    """A screenshot that is not blank, and nothing on the console."""
    _, console = browse(page, f"--screenshot={page.parent / 'shot.png'}")
    assert console == []
    shot = np.asarray(PIL.Image.open(page.parent / "shot.png").convert("L"), int)
    assert shot.shape == (1600, 1200) and (shot < 128).mean() > 0.01


@needs_browser
def test_the_browser_test_would_see_an_error(page):
    page.write_text(page.read_text().replace("</body>", "<script>missing()</script></body>"))
    _, console = browse(page, f"--screenshot={page.parent / 'shot.png'}")
    assert any("missing is not defined" in line for line in console)
    page.write_text(page.read_text().replace("missing()", "fetch('https://example.org')"))
    _, console = browse(page, "--dump-dom")
    assert any("Content Security Policy" in line for line in console)


@needs_browser
def test_the_views_can_be_switched_and_dragged(page):
    """Clicks and a drag by script; what is then visible is read back."""
    probe = """<script>
    const viewer = document.querySelector(".viewer"), stage = viewer.querySelector(".stage"), seen = [];
    const look = () => {
      const css = (s) => getComputedStyle(viewer.querySelector(s));
      seen.push([viewer.dataset.view, css(".difference").visibility, css(".difference").display,
                 css(".top").visibility, css(".top").clipPath, css(".top").position].join(";"));
    };
    look();
    for (const view of ["slider", "reference", "other", "difference", "side"]) {
      viewer.querySelector(`[data-show=${view}]`).click(); look();
    }
    const box = stage.getBoundingClientRect();
    stage.dispatchEvent(new PointerEvent("pointerdown", {buttons: 1, clientX: box.left + box.width / 4}));
    look();
    document.title = "SEEN " + seen.join(" | ");
    </script></body>"""
    page.write_text(page.read_text().replace("</body>", probe))
    dom, console = browse(page, "--dump-dom")
    assert console == []
    seen = re.search(r"<title>SEEN (.*?)</title>", dom).group(1).split(" | ")
    assert seen == [
        "side;hidden;none;visible;none;static",
        "slider;hidden;block;visible;inset(0px 0px 0px 50%);absolute",
        "reference;hidden;block;hidden;inset(0px 0px 0px 50%);absolute",
        "other;hidden;block;visible;none;absolute",
        "difference;visible;block;visible;inset(0px 0px 0px 50%);absolute",
        "side;hidden;none;visible;none;static",
        "slider;hidden;block;visible;inset(0px 0px 0px 25%);absolute",
    ]
