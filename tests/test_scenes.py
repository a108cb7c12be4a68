"""The scenes of the demo's checkpoint and the classifier that judges its pictures."""

from __future__ import annotations

import random

import numpy as np
import PIL.Image
import pytest

from ms_controlnet_backend.demo import judge, scenes


def test_a_seed_is_a_scene():
    assert scenes.sample(3) == scenes.sample(3) != scenes.sample(4)
    first, again = (np.asarray(scenes.draw(scenes.sample(3))) for _ in range(2))
    assert first.shape == (scenes.SIZE, scenes.SIZE, 3) and (first == again).all()
    # What the bundled checkpoint was trained on: a change here asks for training it anew.
    assert scenes.title(scenes.sample(1)) == (
        "a purple triangle on the left and a striped white circle on the right on a fading blue background"
    )


def test_the_classifier_is_exact_on_drawn_scenes():
    seen = set()
    for seed in range(400):
        scene = scenes.sample(seed)
        assert judge.rightness(scenes.draw(scene), scene) == (1, 1, 1), scene
        seen |= {(t.shape, t.texture) for t in scene.things} | {t.colour for t in scene.things}
    assert len(seen) == len(scenes.SHAPES) * len(scenes.TEXTURES) + len(scenes.COLOURS)


def test_the_classifier_tells_wrong_pictures():
    """Any attribute changed alone is noticed."""
    thing = scenes.Thing("circle", "red", "plain", 60, 66, 30)
    scene = scenes.Scene((thing,), "white", fading=False)
    for change, expected in (
        (dict(shape="star"), (0, 1, 1)),
        (dict(colour="blue"), (1, 0, 1)),
    ):
        other = scenes.Scene((scenes.Thing(**vars(thing) | change),), "white", fading=False)
        assert judge.rightness(scenes.draw(other), scene) == expected
    assert judge.rightness(scenes.draw(scenes.Scene((thing,), "black", fading=False)), scene) == (1, 1, 0)
    assert judge.rightness(PIL.Image.new("RGB", (scenes.SIZE,) * 2, "white"), scene) == (0, 0, 1)


@pytest.mark.parametrize("shift, low, high", [(0, 1, 1), (2, 0.99, 1), (6, 0, 0.6)])
def test_edge_f1_has_a_tolerance_of_two_pixels(shift, low, high):
    def scene(x):
        return scenes.draw(scenes.Scene((scenes.Thing("square", "red", "plain", x, 64, 20),), "white", fading=False))

    assert low <= judge.edge_f1(scene(60 + shift), scenes.edge_map(scene(60))) <= high


def test_edge_f1_of_nothing_is_zero():
    drawn = scenes.draw(scenes.sample(0))
    blank = PIL.Image.new("RGB", drawn.size)
    assert judge.edge_f1(blank, scenes.edge_map(drawn)) == judge.edge_f1(drawn, blank) == 0


def test_captions_leave_out_but_do_not_lie():
    rng = random.Random(0)
    words = {w for c in scenes.vocabulary() for w in c.split()}
    assert words >= {*scenes.COLOURS, *scenes.SHAPES, "striped", "dotted", "fading", "left", "right", "top", "bottom"}
    for seed in range(300):
        scene = scenes.sample(seed)
        said = scenes.caption(scene, rng).split()
        true = {t.colour for t in scene.things} | {scene.background}
        assert {w for w in said if w in scenes.COLOURS} <= true
        assert {w for w in said if w in scenes.SHAPES} <= {t.shape for t in scene.things}


def test_control_pictures():
    scene = scenes.Scene((scenes.Thing("square", "red", "plain", 64, 64, 20),), "white", fading=False)
    mask, edges = (np.asarray(p)[..., 0] > 127 for p in (scenes.mask_map(scene), scenes.edge_map(scenes.draw(scene))))
    assert mask[64, 64] and not mask[64, 20] and not edges[64, 64] and edges[64, 43:46].any()
    assert abs(int(mask.sum()) - 41 * 41) < 100
    assert (judge.standing_out(scenes.draw(scene)) ^ mask).mean() < 0.01
