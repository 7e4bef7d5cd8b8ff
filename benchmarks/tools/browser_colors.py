"""Compares the pictures that the runtime decodes with what Chromium shows of the same files.

python -m skingpt_edge.benchmarks.tools.browser_colors [--browser chromium] FILES…

Writes a Markdown table to standard output. The exit code is 1 if a picture differs by more than 2 of 255 on average.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
from PIL import Image

from ...engines.errors import ImageError
from ...runtime.image import decode_image

CLOSE = 2.0
# Each picture is drawn on white, and its pixels are written into the page as base64, which `--dump-dom` prints.
PAGE = """<!doctype html><body>IMAGES<script>
window.onload = () => {
  for (const image of document.querySelectorAll('img')) {
    let shown = '';
    if (image.naturalWidth) {
      const canvas = document.createElement('canvas');
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const pen = canvas.getContext('2d', { colorSpace: 'srgb', willReadFrequently: true });
      pen.fillStyle = 'white';
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(image, 0, 0);
      const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
      for (let i = 0; i < pixels.length; i += 8192) shown += String.fromCharCode(...pixels.subarray(i, i + 8192));
      shown = `${canvas.width} ${canvas.height} ${btoa(shown)}`;
    }
    const line = document.createElement('pre');
    line.textContent = `${image.alt}\\t${shown}`;
    image.replaceWith(line);
  }
  document.body.append('finished');
};
</script></body>"""
MIME = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--force-color-profile=srgb",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom",
)  # fmt: skip


def shown_by_browser(browser: str, files: list[Path]) -> dict[str, Image.Image | None]:
    """RGB pictures by file name, None where the browser shows none. Raises RuntimeError if the browser fails."""
    images = "".join(
        f'<img alt="{file.name}" src="data:{MIME[file.suffix]};base64,{b64encode(file.read_bytes()).decode()}">'
        for file in files
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(PAGE.replace("IMAGES", images))
        result = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={folder}/profile", page.as_uri()],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    found = dict(re.findall(r"<pre>([^\t<]+)\t([^<]*)</pre>", result.stdout))
    if "finished" not in result.stdout or set(found) != {file.name for file in files}:
        raise RuntimeError(f"the browser did not finish: {result.stderr[-500:]}")
    return {name: _picture(shown) for name, shown in found.items()}


def _picture(shown: str) -> Image.Image | None:
    if not shown:
        return None
    width, height, pixels = shown.split()
    return Image.frombytes("RGBA", (int(width), int(height)), b64decode(pixels)).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """The largest of the three channels' mean absolute differences, of 255; 255 if the sizes differ."""
    if one.size != other.size:
        return 255.0
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean((0, 1)).max())


def compare(files: list[Path], shown: dict[str, Image.Image | None]) -> tuple[list[str], bool]:
    """Rows of a Markdown table, and whether all pictures that both show are close."""
    rows, close = [], True
    for file in files:
        picture = shown[file.name]
        try:
            ours = decode_image(file.read_bytes(), file.name)
        except ImageError:
            rows.append(f"| {file.name} | refused here, {'shown' if picture else 'not shown'} by the browser |")
            continue
        if picture is None:
            rows.append(f"| {file.name} | not shown by the browser |")
            continue
        found = difference(ours, picture)
        close = close and found <= CLOSE
        rows.append(f"| {file.name} | {found:.2f} |")
    return rows, close


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--browser", default="chromium")
    given = parser.parse_args()
    files = sorted((file for file in given.files if file.suffix in MIME), key=lambda file: file.name)
    version = subprocess.run([given.browser, "--version"], capture_output=True, text=True, check=True).stdout
    rows, close = compare(files, shown_by_browser(given.browser, files))
    print(
        f"{' '.join(version.split()[:2])}\n\n| picture | mean difference, of 255 |\n| --- | ---: |\n" + "\n".join(rows)
    )
    return 0 if close else 1


if __name__ == "__main__":
    sys.exit(main())
