"""A folder of images, with sub-folders as labels. This file draws one; with yours, only the second command is needed.

python examples/image_folder.py shapes
python train.py data=image_folder data.folder=shapes data.image_size=16 data.channels=1 metrics=classifier \
    experiment=smoke tracking=none
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

folder = Path(sys.argv[1])
for shape in ("ellipse", "rectangle"):
    (folder / shape).mkdir(parents=True, exist_ok=True)
    for number in range(100):
        image = Image.new("L", (40, 32))  # any size: the central square is taken, and resized once
        left, top = random.randint(4, 12), random.randint(2, 10)
        getattr(ImageDraw.Draw(image), shape)((left, top, left + 20, top + 18), fill=255)
        image.save(folder / shape / f"{number:03}.png")
