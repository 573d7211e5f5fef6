"""Small versions of the images: one call for each."""

from pathlib import Path
from typing import Annotated

import tarn
from PIL import Image


@tarn.asset(env=tarn.Env(packages=["pillow>=11"]))
def thumbnails(image: Annotated[Path, tarn.files("images/*.png", each=True)], out: tarn.OutputDir):
    """A 64 pixel version of each image."""
    print(image.name)
    with Image.open(image) as picture:
        picture.thumbnail((64, 64))
        picture.save(out / image.name)
