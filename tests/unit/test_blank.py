"""Images of one color are refused: NaN is written as black."""

import pytest
from PIL import Image

from fluxfast.errors import FluxFastError
from fluxfast.quality.blank import check_not_blank


def test_a_blank_image_is_refused_and_named():
    dark = Image.new("RGB", (8, 8))
    dark.putpixel((3, 3), (0, 0, 1))
    check_not_blank([dark])
    with pytest.raises(FluxFastError, match=r"image 2: every pixel is \(0, 0, 0\), black"):
        check_not_blank([dark, Image.new("RGB", (8, 8))])
    with pytest.raises(FluxFastError, match=r"image 1: every pixel is \(9, 9, 9\)"):
        check_not_blank([Image.new("L", (8, 8), 9)])
