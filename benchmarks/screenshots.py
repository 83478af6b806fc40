"""Takes pictures of a page in headless Chromium, as wide as a phone and a desktop, light and dark.

    python benchmarks/screenshots.py nndebug_demo/sorted/nndebug/report.html --to /tmp/pictures

Says which elements stick out of the page to the right, and what the browser wrote to its console.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = {"phone": 390, "desktop": 1280}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Headless Chromium has no console to look at and windows no narrower than 500 pixels: so the page
# goes into a frame as wide as wanted, and what is to be known of it into the title.
_FRAME = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: {height}px; display: block }}
</style><iframe src="{page}"></iframe>"""
_PROBE = """<script>addEventListener("load", () => {
  const width = document.documentElement.clientWidth, out = new Set();
  for (const one of document.querySelectorAll("body *")) {
    const box = one.getBoundingClientRect();
    if (box.right > width + 1 && !one.closest(".scroll")) out.add(one.tagName + "." + one.className);
  }
  document.title = `height=${document.documentElement.scrollHeight};out=${[...out].join(",")}`;
});</script>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--to", type=Path, default=Path())
    parser.add_argument("--only", choices=WIDTHS)
    parser.add_argument("--scheme", choices=("light", "dark"))
    options = parser.parse_args()
    browser = next((found for one in _BROWSERS if (found := shutil.which(one))), None)
    if browser is None:
        sys.exit(f"None of {', '.join(_BROWSERS)} is installed.")
    options.to.mkdir(parents=True, exist_ok=True)
    for name, width in WIDTHS.items():
        if options.only in (None, name):
            for scheme in ("light", "dark"):
                if options.scheme in (None, scheme):
                    shoot(browser, options.page, width, scheme, options.to / f"{name}-{scheme}.png")


def shoot(browser: str, page: Path, width: int, scheme: str, picture: Path) -> None:
    """Takes one picture of the whole page, and prints what is wrong with it."""
    with tempfile.TemporaryDirectory() as directory:
        content = page.read_text(encoding="utf-8")
        if scheme == "light":  # the other is forced upon the browser
            content = content.replace("prefers-color-scheme: dark", "prefers-color-scheme: none")
        else:
            content = content.replace("(prefers-color-scheme: dark)", "all")
        probe = Path(directory, "probe.html")
        probe.write_text(content.replace("</head>", f"{_PROBE}</head>"), encoding="utf-8")
        frame = Path(directory, "frame.html")
        title, height = "", 3000
        for _ in range(2):  # once to learn how high the page is, once to take it
            frame.write_text(_FRAME.format(width=width, height=height, page=probe.name))
            size = f"--window-size={max(width, 500)},{height}"
            common = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                      "--allow-file-access-from-files", "--enable-logging=stderr",
                      "--virtual-time-budget=2000", f"--user-data-dir={directory}/profile", size]  # fmt: skip
            title = _title(common, frame)
            height = int(re.search(r"height=(\d+)", title)[1])
        shot = subprocess.run(
            [*common, f"--screenshot={picture}", frame.as_uri()],
            capture_output=True,
            text=True,
            check=True,
        )
    out = re.search(r"out=([^<]*)", title)[1]
    errors = [line for line in shot.stderr.splitlines() if "CONSOLE" in line]
    _crop(picture, width)
    print(
        f"{picture}  {width} x {height}  sticks out: {out or 'nothing'}  console: {errors or 'nothing'}"
    )


def _title(common: list[str], frame: Path) -> str:
    """Reads the title of the page in the frame."""
    reader = frame.with_name("reader.html")
    script = ('<script>addEventListener("load", () => setTimeout(() => document.body.append('
              'document.querySelector("iframe").contentDocument.title), 300))</script>')  # fmt: skip
    reader.write_text(frame.read_text() + script)
    run = subprocess.run(
        [*common, "--dump-dom", reader.as_uri()], capture_output=True, text=True, check=True
    )
    found = re.search(r"height=\d+;out=[^<]*", run.stdout)
    if found is None:
        raise RuntimeError(f"The page did not load: {run.stderr[-500:]}")
    return found[0]


def _crop(picture: Path, width: int) -> None:
    from PIL import Image

    image = Image.open(picture)
    image.crop((0, 0, width, image.height)).save(picture)


if __name__ == "__main__":
    main()
