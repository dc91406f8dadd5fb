from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_scenes import STILL, camera, chequer, metres, scene, sphere, square, state, tabletop

from calvin_eval.errors import RenderError
from calvin_eval.sim.drawing import fast
from calvin_eval.sim.drawing.fast import FastRenderer
from calvin_eval.sim.drawing.meshes import Mesh, box
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.drawing.scene import SceneState, order

ABOVE = camera((0.0, 0.0, 2.0))
ASLANT = camera((1.4, -1.6, 1.2), (0, 0, 0.2))
BACKGROUND = (178, 178, 204)  # 0.7, 0.7, 0.8 by way of 10 bits


def same(a: Any, b: Any) -> bool:
    pairs = zip([x for image in a for x in image], [x for image in b for x in image], strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def orbit(step: int) -> Any:
    angle = 0.3 * step
    return camera((np.cos(angle), np.sin(angle), 0.5), (0, 0, 0.3), (40, 40), 70)


def test_images_have_the_right_form_and_background() -> None:
    [(rgb, depth)] = FastRenderer(scene([square(0.5)])).draw(state((0, 0, 0)), [ABOVE])
    assert rgb.shape == (72, 96, 3)
    assert rgb.dtype == np.uint8
    assert depth.shape == (72, 96)
    assert depth.dtype == np.float32
    assert tuple(rgb[0, 0]) == BACKGROUND
    assert depth[0, 0] == 1
    assert tuple(rgb[36, 48]) != BACKGROUND


@pytest.mark.parametrize("size", [(96, 72), (33, 57), (1, 1), (300, 900)])
@pytest.mark.parametrize("fov", [15, 90])
def test_a_square_covers_the_pixels_it_should_at_any_size_and_angle(
    size: tuple[int, int], fov: float
) -> None:
    view = camera((0.0, 0.0, 2.0), size=size, fov=fov)
    [(rgb, depth)] = FastRenderer(scene([square(0.4)])).draw(state((0, 0, 0)), [view])
    width, height = size
    reach = 2 * np.tan(np.radians(fov / 2))
    y = (1 - (np.arange(height) + 0.5) / height * 2) * reach
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * reach * width / height
    inside = (np.abs(y) < 0.2)[:, None] & (np.abs(x) < 0.2)[None]
    assert np.array_equal(depth < 1, inside)
    assert np.array_equal((rgb != BACKGROUND).any(axis=2), inside)


def test_the_upper_row_comes_first_and_x_points_right() -> None:
    meshes = [square(0.2), square(0.2)]
    view = camera((0.0, 0.0, 2.0))
    drawn = FastRenderer(scene(meshes)).draw(state((0.4, 0, 0), (0, 0.4, 0)), [view])[0][1] < 1
    rows, columns = np.nonzero(drawn)
    assert columns.max() > 60  # the one at +x
    assert rows.min() < 25  # the one at +y, which is up
    assert rows.max() < 42
    assert columns.min() > 42


@pytest.mark.parametrize(("bits", "tolerance"), [(16, 0.008), (24, 0.0002)])
def test_depth_is_the_distance_along_the_viewing_direction(bits: int, tolerance: float) -> None:
    renderer = FastRenderer(scene([square(8)]), DrawOptions(depth_bits=bits))
    [(_, depth)] = renderer.draw(state((0, 0, 0)), [ABOVE])
    assert np.abs(metres(depth) - 2).max() < tolerance
    if bits == 16:
        assert np.array_equal(depth * np.float32(65535), np.rint(depth * np.float32(65535)))


def test_a_floor_that_passes_the_camera_is_cut_not_lost() -> None:
    view = camera((0, 0, 0.05), (1, 0, 0.04), (80, 60), 100)
    [(_, depth)] = FastRenderer(scene([square(8)])).draw(state((0, 0, 0)), [view])
    height = 60
    tangent = (1 - (np.arange(height) + 0.5) / height * 2) * np.tan(np.radians(50))
    down = -np.sin(np.arctan2(-0.01, 1.0) + np.arctan(tangent))  # of the middle column's rays
    far_enough = (down > 0) & (0.05 / np.maximum(down, 1e-9) < 3.5)
    assert (depth[far_enough, 40] < 1).all()
    assert (depth[down < 0, 40] == 1).all()


def test_of_equal_depths_the_first_drawn_wins_as_in_bullets_order() -> None:
    squares = [square(0.5), square(0.5)]
    colours = np.array([(1, 0, 0, 1), (0, 1, 0, 1)])
    high = camera((0.0, 0.0, 4.01))  # where a step of the depth is 2.5 cm
    for heights in ((0.0, 0.002), (0.002, 0.0), (0.0, 0.0)):
        alone = [FastRenderer(scene([square(0.5)])).draw(state((0, 0, z)), [high]) for z in heights]
        assert np.array_equal(alone[0][0][1], alone[1][0][1])  # else the nearer one wins
        now = state(*((0, 0, z) for z in heights), colours=colours)
        made = scene(squares)
        [(rgb, depth)] = FastRenderer(made).draw(now, [high])
        assert np.unique(depth).size == 2
        assert rgb[36, 48].argmax() == order(made, now, high[0])[0]


def test_shapes_that_share_a_mesh_are_drawn_together() -> None:
    made = scene([square(0.5), square(0.5)], (), [(0, -1), (1, -1), (0, -1)])
    colours = np.array([(1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1)])
    now = state((0, 0, -0.001), (0, 0, -0.0005), (0, 0, 0), colours=colours)
    assert order(made, now, ABOVE[0]).tolist() == [0, 2, 1]
    hidden = colours.copy()
    hidden[0, 3] = 0
    [(rgb, _)] = FastRenderer(made).draw(SceneState(now.poses, hidden.astype(np.float32)), [ABOVE])
    assert rgb[36, 48].argmax() == 2


def test_back_faces_are_not_drawn() -> None:
    [(rgb, _)] = FastRenderer(scene([square(0.5)])).draw(state((0, 0, 0, 1, 0, 0, 0)), [ABOVE])
    assert (rgb == BACKGROUND).all()


def test_what_is_transparent_is_not_there() -> None:
    drawn, states = tabletop()
    colours = states[0].colours.copy()
    colours[3, 3] = 0
    without = scene(drawn.meshes, drawn.textures, [(0, 0), (1, -1), (2, -1), (1, -1)])
    keep = [0, 1, 2, 4]
    hidden = FastRenderer(drawn).draw(SceneState(states[0].poses, colours), [ASLANT])
    absent = FastRenderer(without).draw(SceneState(states[0].poses[keep], colours[keep]), [ASLANT])
    assert same(hidden, absent)
    assert not same(hidden, FastRenderer(drawn).draw(states[0], [ASLANT]))


def test_light_comes_from_above_and_casts_a_shadow() -> None:
    block = box((0.2, 0.2, 0.02))
    view = camera((0.0, -1.5, 2.0))
    lit = FastRenderer(scene([square(3)])).draw(state((0, 0, 0)), [view])[0][0]
    with_block = FastRenderer(scene([square(3), block]))
    shaded = with_block.draw(state((0, 0, 0), (0, 0, 0.3)), [view])[0][0]
    darker = shaded.astype(int).sum(axis=2) < lit.astype(int).sum(axis=2) - 60
    assert 40 < darker.sum() < 600
    beside = with_block.draw(state((0, 0, 0), (9, 9, 0.3)), [view])[0][0]
    assert np.array_equal(beside, lit)


def test_textures_repeat_and_blur_in_the_distance() -> None:
    made = scene([square(8, 40)], [chequer(64, 64)], [(0, 0)])
    [(rgb, _)] = FastRenderer(made).draw(state((0, 0, 0)), [camera((0, -4, 0.5))])
    near, far = rgb[-12:].astype(float), rgb[38:42].astype(float)
    assert near.std(axis=(0, 1)).max() > 3 * far.std(axis=(0, 1)).max()


def test_what_is_kept_between_draws_does_not_show() -> None:
    drawn, states = tabletop()
    kept = FastRenderer(drawn)
    for step, now in enumerate([*states, states[0], states[0], states[3]]):
        views = [ASLANT, orbit(step)] if step % 4 != 3 else [ABOVE]
        assert same(kept.draw(now, views), FastRenderer(drawn).draw(now, views)), step


def test_more_cameras_than_are_remembered() -> None:
    drawn, states = tabletop()
    kept = FastRenderer(drawn)
    views = [orbit(step) for step in range(7)]
    for now in states[:3]:
        together = kept.draw(now, views)
        assert same(together, [FastRenderer(drawn).draw(now, [view])[0] for view in views])


def test_the_portable_code_draws_the_same_bits() -> None:
    drawn, states = tabletop()
    best, portable = FastRenderer(drawn), FastRenderer(drawn, instruction_set=1)
    assert portable.instruction_set == 1
    for step, now in enumerate(states):
        views = [ASLANT, orbit(step)]
        assert same(best.draw(now, views), portable.draw(now, views))


@pytest.mark.processes
def test_threads_draw_what_one_thread_draws() -> None:
    drawn, states = tabletop()
    alone = [FastRenderer(drawn).draw(now, [ASLANT]) for now in states]
    wrong: list[int] = []

    def work(number: int) -> None:
        renderer = FastRenderer(drawn)
        for _ in range(5):
            for index in np.random.default_rng(number).permutation(len(states)):
                if not same(renderer.draw(states[index], [ASLANT]), alone[index]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def longest_halt(draw: Callable[[], object]) -> float:
    """The longest time without Python in another thread while it draws, as a share of the whole."""
    spent: list[tuple[float, float]] = []

    def work() -> None:
        start = time.perf_counter()
        draw()
        spent.append((start, time.perf_counter()))

    thread, ticks = threading.Thread(target=work), []
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    start, end = spent[0]
    inside = [start, *(tick for tick in ticks if start < tick < end), end]
    return float(np.diff(inside).max() / (end - start))


@pytest.mark.processes
def test_python_runs_on_while_it_draws() -> None:
    drawn, states = tabletop()
    renderer, large = FastRenderer(drawn), camera((1.4, -1.6, 1.2), size=(2500, 2500))
    # If drawing kept Python's lock, no image would be drawn without a halt; a busy machine may
    # halt a thread by itself, but not in every image.
    assert any(longest_halt(lambda: renderer.draw(states[0], [large])) < 0.5 for _ in range(10))


def test_colour_bits_change_the_last_bit_alone() -> None:
    drawn, states = tabletop()
    ten = FastRenderer(drawn).draw(states[0], [ASLANT])[0][0].astype(int)
    eight = FastRenderer(drawn, DrawOptions(colour_bits=8)).draw(states[0], [ASLANT])[0][0]
    difference = np.abs(ten - eight)
    assert difference.max() == 1
    assert 0.01 < difference.mean() < 0.5


def test_coarse_shadows_change_the_shadow_alone() -> None:
    made = scene([square(2), sphere(0.2, 40)])
    now = state((0, 0, 0), (0, 0, 0.4))
    view = camera((0.0, -1.5, 1.5), size=(200, 200))
    fine, coarse = (
        FastRenderer(made, DrawOptions(shadow_detail=d)).draw(now, [view]) for d in (0.0, 8.0)
    )
    different = (fine[0][0] != coarse[0][0]).any(axis=2).mean()
    assert 0 < different < 0.05
    assert np.array_equal(fine[0][1], coarse[0][1])


def test_the_first_two_images_may_lack_their_shadows() -> None:
    drawn, states = tabletop()
    views = [ASLANT, ABOVE, ASLANT]
    plain = FastRenderer(drawn).draw(states[0], views)
    renderer = FastRenderer(drawn, DrawOptions(first_frames_unshadowed=True))
    first = renderer.draw(states[0], views)
    assert not np.array_equal(first[0][0], plain[0][0])
    assert (first[0][0].astype(int) >= plain[0][0]).all()
    assert same(first[2:], plain[2:])
    assert same(renderer.draw(states[0], views), plain)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    renderer = FastRenderer(scene([square(1)]))
    with pytest.raises(RenderError, match="finite numbers as poses"):
        renderer.draw(state((bad, 0, 0)), [ABOVE])
    with pytest.raises(RenderError, match="matrix of 16 finite"):
        renderer.draw(state((0, 0, 0)), [((bad,) * 16, *ABOVE[1:])])
    assert renderer.draw(state((0, 0, 0)), [ABOVE])  # and it still draws


def test_wrong_sizes_are_refused() -> None:
    renderer = FastRenderer(scene([square(1)]))
    with pytest.raises(RenderError, match="1 x 7"):
        renderer.draw(state((0, 0, 0), (0, 0, 0)), [ABOVE])
    with pytest.raises(RenderError, match="1 x 1 or more"):
        renderer.draw(state((0, 0, 0)), [(*ABOVE[:2], 0, 10)])
    with pytest.raises(RenderError, match="16384 x 16384"):
        renderer.draw(state((0, 0, 0)), [(*ABOVE[:2], 1, 16385)])


def test_a_broken_scene_is_refused() -> None:
    good = square(1)
    beyond = Mesh(good.positions, good.normals, good.uvs, np.array([(0, 1, 4)], np.int32))
    with pytest.raises(RenderError, match="corner that is not there"):
        FastRenderer(scene([beyond]))
    with pytest.raises(RenderError, match="mesh that is not there"):
        FastRenderer(scene([good], (), [(1, -1)]))
    with pytest.raises(RenderError, match="texture that is not there"):
        FastRenderer(scene([good], (), [(0, 0)]))
    with pytest.raises(RenderError, match="expected a mesh of positions"):
        FastRenderer(scene([Mesh(good.positions, good.normals[:2], good.uvs, good.triangles)]))


def test_poses_far_away_and_inside_the_camera_are_harmless() -> None:
    renderer = FastRenderer(scene([sphere(0.3), box((0.1, 0.1, 0.1))]))
    for place in [(0, 0, 2.0), (1e6, -1e6, 3e5), (1e30, 0, 0), (0, 0, 1.995)]:
        for other in [(0, 0, 0), (-20.0, 5, 1)]:
            [(rgb, depth)] = renderer.draw(state(place, (*other, *STILL)), [ABOVE])
            assert np.isfinite(depth).all()
            assert rgb.shape == (72, 96, 3)


@pytest.mark.parametrize("found", ["nothing", "no library", "another version"])
def test_without_its_library_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str
) -> None:
    if found == "another version":
        monkeypatch.setattr(fast, "_VERSION", -1)
    else:
        monkeypatch.setattr(fast, "_LIBRARY", tmp_path / "_raster.so")
    if found == "no library":
        (tmp_path / "_raster.so").write_text("for another system")
    fast._library.cache_clear()
    try:
        with pytest.raises(RenderError, match=r"[Ii]nstall"):
            FastRenderer(scene([square(1)]))
        assert fast.library_problem()
    finally:
        monkeypatch.undo()
        fast._library.cache_clear()
    assert fast.library_problem() == ""
