"""Make the pictures that face detection is measured on (`stratal models bench faces`): ``make_faces_set.py ASTRONAUT.png``.

All are of one photograph: NASA's portrait of Eileen Collins, public domain, as scikit-image ships it (512 × 512). Half have
the face in them, in another size, light or place; half are its other parts, where no face is.
"""

import sys
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

HERE = Path(__file__).resolve().parent.parent / "src" / "stratal" / "cli" / "catalog" / "samples"


def main(source: str) -> None:
    whole = Image.open(source).convert("RGB")
    bust = whole.crop((100, 0, 380, 280))
    grey = Image.new("RGB", (480, 360), (128, 128, 128))
    moved = grey.copy()
    moved.paste(bust.resize((200, 200)), (260, 140))
    small = grey.copy()
    small.paste(bust.resize((140, 140)), (30, 20))
    with_face = [
        bust,
        ImageOps.mirror(bust),
        bust.resize((160, 160)),
        ImageEnhance.Brightness(bust).enhance(0.45),
        ImageEnhance.Contrast(bust).enhance(0.5),
        bust.convert("L").convert("RGB"),
        moved,
        small,
    ]
    boxes = [(0, 0, 130, 130), (380, 0, 512, 132), (0, 200, 130, 330), (380, 180, 512, 312)]
    boxes += [(60, 320, 260, 512), (260, 320, 460, 512), (0, 380, 132, 512), (380, 380, 512, 512)]
    without = [whole.crop(box).resize((240, 240)) for box in boxes]
    for number, picture in enumerate(with_face + without):
        picture.save(HERE / f"faces-{number}.jpg", quality=80)


if __name__ == "__main__":
    main(sys.argv[1])
