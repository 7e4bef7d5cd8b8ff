"""Notes on a picture's quality: where accuracy falls they appear, on usual drawings they do not."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from skingpt_edge.export.demo.draw import draw
from skingpt_edge.export.demo.evaluate import held_out_seeds
from skingpt_edge.export.demo.robustness import DISTURBANCES, choose_scenes
from skingpt_edge.export.demo.scenes import random_scene
from skingpt_edge.runtime.image import decode_image, resize
from skingpt_edge.runtime.image_notes import SIDE, quality_notes
from support import ROOT


def codes(image: Image.Image) -> set[str]:
    return {note.code for note in quality_notes(image.size, resize(image, SIDE))}


def test_none_on_the_pictures_of_the_package():
    for path in sorted((ROOT / "runtime/demo/pictures").iterdir()):
        assert not codes(decode_image(path.read_bytes(), path.name)), path.name


def test_few_on_usual_drawings_of_any_skin():
    scenes = [random_scene(number) for number in held_out_seeds(0, 200)]
    noted = Counter(scene.tone for scene in scenes if codes(draw(scene).image))
    assert max(noted.values(), default=0) <= 3


@pytest.mark.parametrize(
    ("disturbance", "level", "code", "least"),
    [
        ("light", -70, "dark", 0.9),
        ("light", 50, "bright", 0.3),
        ("blur", 4, "blurred", 0.7),
        ("resolution", 40, "small", 1),
    ],
)
def test_where_answers_get_worse(disturbance, level, code, least):
    scenes = choose_scenes(40, 0)
    found = [code in codes(DISTURBANCES[disturbance].show(scene, level)) for scene in scenes]
    assert np.mean(found) >= least


def test_no_colour_and_thin(photo):
    assert codes(photo.convert("L").convert("RGB")) >= {"no_color"}
    assert "no_color" not in codes(photo)
    assert "thin" in codes(photo.resize((450, 220)))
    assert "thin" not in codes(photo.resize((440, 220)))


def test_a_picture_without_edges_is_not_called_blurred():
    assert not codes(Image.new("RGB", (300, 300), (200, 120, 100)))
