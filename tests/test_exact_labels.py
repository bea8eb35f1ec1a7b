"""Labels that are computed: statistics of pictures, normals of a surface, edges of masks."""

import numpy as np
import pytest
from fourm_data_prep.adapters import normals_of_depth
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples

from fourm.raw.metadata import Metadata


def test_statistics_of_pictures_are_those_of_their_definitions():
    label = open_labeller("statistics")
    grey, red = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    plain, colored = label(Samples([grey, red]), Metadata())
    assert plain == {
        "colorfulness": 0.0,
        "brightness": pytest.approx(100),
        "contrast": pytest.approx(0, abs=1e-9),
        "saturation": 0.0,
        "entropy": 0.0,
    }
    assert colored["saturation"] == 255 and colored["colorfulness"] == pytest.approx(
        0.3 * np.hypot(255, 127.5)
    )
    checker = np.indices((8, 8)).sum(0) % 2
    half = label(
        Samples([np.repeat((checker * 200)[..., None], 3, -1).astype(np.uint8)]),
        Metadata(),
    )[0]
    assert half["entropy"] == pytest.approx(1.0) and half["contrast"] == pytest.approx(100)


def test_normals_of_a_known_surface():
    """A wall straight ahead looks at the camera; a floor (depth falls downwards in the picture)
    looks up.
    """
    wall = normals_of_depth(np.full((40, 40), 3.0))
    assert np.allclose(wall[20, 20], [0, 0, 1], atol=1e-3)
    focal = 20 / np.tan(np.radians(30))
    rows = np.arange(40)[:, None] - 20 + 0.5
    # a plane one unit below the eye
    floor = np.where(rows > 2, 1.0 * focal / np.maximum(rows, 1), 50.0) * np.ones((1, 40))
    assert np.allclose(normals_of_depth(floor)[30:38, 20], [0, -1, 0], atol=0.05)


def test_edges_of_masks_run_along_their_borders():
    from fourm_data_prep.sam import mask_edges

    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    drawn = mask_edges([mask], 32)[..., 0]
    assert drawn[8, 8:24].min() == 1 and drawn[12:20, 12:20].max() == 0 and drawn[:6].max() == 0
