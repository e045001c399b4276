"""What is said of furniture is what was built."""

import re

import numpy as np
import pytest

from raydiance.data.captions import caption, colour_word
from raydiance.data.furniture import KINDS, generate, generate_captioned
from raydiance.data.meshes import Mesh
from raydiance.data.solids import box


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((0.1, 0.1, 0.1), "black"),
        ((0.95, 0.95, 0.95), "white"),
        ((0.5, 0.5, 0.52), "grey"),
        ((0.8, 0.1, 0.1), "red"),
        ((0.5, 0.34, 0.23), "brown"),
        ((0.2, 0.36, 0.7), "blue"),
        ((0.3, 0.6, 0.3), "green"),
        ((0.9, 0.8, 0.68), "beige"),
        ((0.86, 0.66, 0.62), "pink"),
    ],
)
def test_colours_have_the_names_that_people_give_them(rgb, word):
    assert colour_word(rgb) == word


def test_every_hue_has_a_name():
    colours = np.random.default_rng(0).uniform(size=(2000, 3))
    assert len({colour_word(colour.tolist()) for colour in colours}) == 12


def test_the_largest_surface_gives_the_colour_and_the_box_the_size():
    def part(high: float, colour: tuple[int, int, int]) -> Mesh:
        solid = box((-0.5, -0.2, 0.0), (0.5, 0.2, high))
        return Mesh.flat(solid.vertices, solid.faces, colour)

    red, blue = part(0.3, (200, 20, 20)), part(0.05, (30, 60, 200))
    assert caption("square_table", [red, blue], ["four legs", "four legs"]) == (
        "a low wide red square table with four legs"
    )
    assert caption("shelf", [part(2.0, (30, 60, 200)), red], []) == "a tall wide blue shelf"


def test_captions_say_what_was_built_and_change_nothing_of_it():
    said = set()
    for kind in KINDS:
        for seed in range(6):
            mesh, text = generate_captioned(kind, seed)
            assert np.array_equal(mesh.vertices, generate(kind, seed).vertices)
            assert kind.replace("_", " ") in text and re.fullmatch(r"a [a-z ]+", text)
            if kind in ("armchair", "sofa"):
                assert "arms" in text
            said.add(text)
    assert len(said) > 25
