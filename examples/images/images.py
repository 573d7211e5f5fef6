# /// script
# dependencies = ["pillow==11.3.0"]
# ///
"""Pictures drawn and made small, each by itself: as many at a time as there are cores, and one sheet of all."""

from __future__ import annotations

import io
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

import tarn

SIDE, SMALL = 600, 60


@tarn.function
def draw(number: int) -> Image.Image:
    """The picture with this number."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(picture)
    for step in range(400):
        angle, far = step * (1 + number / 7), step * SIDE / 900
        x, y = SIDE / 2 + far * math.cos(angle), SIDE / 2 + far * math.sin(angle)
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=((number * 37) % 256, step % 256, 160))
    return picture


@tarn.function
def shrink(picture: Image.Image) -> bytes:
    """A small PNG of a picture."""
    out = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(SIDE / SMALL / 2)).resize((SMALL, SMALL)).save(out, "PNG")
    return out.getvalue()


@tarn.entrypoint
def main(count: int = 48, out: Path = Path("sheet.png")):
    """Draw `count` pictures, shrink them, and put them on one sheet."""
    columns = math.ceil(math.sqrt(count))
    sheet = Image.new("RGB", (columns * SMALL, math.ceil(count / columns) * SMALL), "white")
    for i, small in enumerate(shrink.map(draw.map(range(count)))):  # one stream: nobody waits for all pictures
        sheet.paste(Image.open(io.BytesIO(small)), (i % columns * SMALL, i // columns * SMALL))
    sheet.save(out)
    print(f"{count} pictures on {out}: {sheet.width} x {sheet.height}")
