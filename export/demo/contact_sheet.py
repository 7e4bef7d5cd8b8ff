"""A contact sheet of hard drawings, one of each condition, with what is true of them.

`python -m skingpt_edge.export.demo.contact_sheet FILE.jpg`
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .conditions import CONDITIONS, Findings
from .draw import FRAME, draw
from .evaluate import held_out_seeds
from .scenes import random_scene

COLUMNS = 5
CAPTION = 46  # pixels below a picture
GAP = 8


def contact_sheet() -> Image.Image:
    """For each condition the first held-out drawing that shows it."""
    rows = -(-len(CONDITIONS) // COLUMNS)
    cell = FRAME + GAP, FRAME + CAPTION
    sheet = Image.new("RGB", (COLUMNS * cell[0] + GAP, rows * cell[1] + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, condition in enumerate(CONDITIONS):
        scene = next(
            scene
            for seed in held_out_seeds(0)
            if (scene := random_scene(seed, kind="hard")).findings and scene.findings.condition == condition.name
        )
        assert scene.findings
        x, y = GAP + number % COLUMNS * cell[0], GAP + number // COLUMNS * cell[1]
        sheet.paste(draw(scene).image, (x, y))
        pen.multiline_text((x, y + FRAME + 3), caption(scene.findings), fill="#222", font=font, spacing=1)
    return sheet


def caption(truth: Findings) -> str:
    """Two lines with what is true."""
    return (
        f"{truth.condition}: {truth.count} {truth.size} {truth.colour} {truth.kind},\n"
        f"{truth.surface}, {truth.border}, {truth.arrangement}"
    )


def main() -> None:
    contact_sheet().save(Path(sys.argv[1]), quality=85)


if __name__ == "__main__":
    main()
