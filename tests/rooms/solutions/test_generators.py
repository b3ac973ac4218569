"""What solutions' generators promise: the same numbers each time, and a world in which their truth holds."""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from stratal.ai.solutions.catalogue import Catalogue

pytestmark = pytest.mark.fast


def generator(name: str) -> ModuleType:
    """The solution's generator, under a name of its own: all are called the same."""
    path = Catalogue().root / name / "generator.py"
    spec = importlib.util.spec_from_file_location(f"generator_of_{name.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def test_a_drone_without_wind_hovers_and_one_that_is_let_go_falls() -> None:
    world = generator("drones")
    rows = world.courses(world.SIZES["tiny"])
    course = world.course(rows[rows.course == 0])
    drone = world.Drone()
    hovering = falling = world.start(course, drone)
    for _ in range(100):
        hovering = world.step(hovering, drone, drone.mass * world.GRAVITY, np.zeros(3), np.zeros(3))
        falling = world.step(falling, drone, 0.0, np.zeros(3), np.zeros(3))
    assert np.allclose(hovering.position, course.points[0])
    assert -9.81 * 0.5 < falling.position[2] - course.points[0][2] < -3.0, (
        "drag and the motors' lag hold it back a little"
    )
    turned = world.step(hovering, drone, 5.0, np.array([1.0, 0.5, -2.0]), np.zeros(3)).attitude
    assert np.allclose(turned @ turned.T, np.eye(3))


def test_gusts_come_around_the_steady_wind_with_the_strength_that_is_said() -> None:
    world = generator("drones")
    rows = world.courses(world.SIZES["tiny"])
    course = world.course(rows[rows.course == 1])
    wind = world.gusts(course, 60_000)
    assert np.allclose(wind.mean(0), course.steady, atol=6 * course.gust / np.sqrt(600 * 0.4))
    assert wind[:, 0].std() == pytest.approx(course.gust, rel=0.25)
    assert np.array_equal(wind[:500], world.gusts(course, 500)), "gusts do not depend on how long one looks"


def test_a_market_with_an_edge_drifts_as_said_and_one_without_does_not() -> None:
    world = generator("algorithmic-trading")
    made, none = world.generate(1500), world.generate(1500, 0.0)
    assert set(made.drift.abs().round(6)) == {world.EDGE}
    assert (none.drift == 0).all()
    same = np.diff(np.log(made.close)) - np.diff(np.log(none.close))
    assert np.allclose(same, made.drift.to_numpy()[1:], atol=1e-6), "the same luck in both"


def test_video_shows_its_cells_where_the_truth_says() -> None:
    world = generator("image-video-analysis")
    frames, truth = world.video(4, 7)
    assert frames.shape == (4, world.HEIGHT, world.WIDTH)
    clear = truth[(truth.seen > 0.97) & (truth.frame == 0)]
    assert len(clear)
    for cell in clear.itertuples():
        assert frames[0, round(cell.y), round(cell.x)] > frames[0].mean()
    assert np.array_equal(frames, world.video(4, 7)[0])


def test_scenes_hold_their_objects_inside_the_picture_and_are_the_same_each_time() -> None:
    world = generator("object-detection")
    pictures, objects = world.generate(world.Size(2, 1, 1))
    assert pictures.shape == (3, world.SIDE, world.SIDE, 3)
    assert (objects.x1 > objects.x0).all()
    assert (objects.y1 > objects.y0).all()
    assert (objects[["x1", "y1"]] <= world.SIDE).all().all()
    assert (objects.seen >= world.SEEN).all()
    assert np.array_equal(pictures, world.generate(world.Size(2, 1, 1))[0])


def test_drawn_pictures_of_one_person_are_more_alike_than_those_of_two() -> None:
    world = generator("facial-recognition")
    pictures, whose = world.generate(world.Size(8, 4, 1))
    flat = pictures.reshape(len(pictures), -1).astype(float)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = flat @ flat.T
    same = whose[:, None] == whose[None]
    others = ~np.eye(len(whose), dtype=bool)
    assert alike[same & others].mean() > alike[~same].mean()
