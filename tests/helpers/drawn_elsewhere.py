"""A scene of the world in a file, which a Python without PyBullet can draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.drawing.fast import FastRenderer
from calvin_eval.sim.drawing.scene import Scene


def save_scene(path: Path) -> dict[str, Any]:
    """Write scene D, its state and its cameras; return the images that `fast` draws here.

    Returns:
        `rgb0` (200, 200, 3) uint8 and `depth0` (200, 200) float32 of the static camera, `rgb1` and
        `depth1` of the gripper's.
    """
    chain = load_chains("official")[0]
    with make_env("D", render="none") as env:
        env.start(chain.robot_obs, chain.scene_obs)
        scene = Scene.read(env.world)
        state = scene.state(env.world)
        views = [(c.view(), c.projection, c.spec.width, c.spec.height) for c in env.cameras]  # type: ignore[attr-defined]
    content: dict[str, Any] = {
        "counts": np.array([len(scene.meshes), len(scene.textures), len(views)]),
        "shapes": np.array([(shape.mesh, shape.texture) for shape in scene.shapes]),
        "poses": state.poses,
        "colours": state.colours,
    }
    for i, mesh in enumerate(scene.meshes):
        for name in ("positions", "normals", "uvs", "triangles"):
            content[f"{name}{i}"] = getattr(mesh, name)
    content |= {f"texture{i}": texture for i, texture in enumerate(scene.textures)}
    for i, (view, projection, width, height) in enumerate(views):
        content |= {f"view{i}": view, f"projection{i}": projection, f"size{i}": (width, height)}
    np.savez(path, allow_pickle=False, **content)
    images = FastRenderer(scene).draw(state, views)
    return {
        f"{name}{i}": array
        for i, image in enumerate(images)
        for name, array in zip(("rgb", "depth"), image, strict=True)
    }


def draw_from_file(scene_file: str, image_file: str) -> None:
    """Draw what `save_scene` wrote; its text runs in other Pythons, which have NumPy alone."""
    from types import SimpleNamespace

    import numpy as np

    from calvin_eval.sim.drawing.fast import FastRenderer

    content = dict(np.load(scene_file))
    meshes, textures, views = content["counts"]
    names = ("positions", "normals", "uvs", "triangles")
    scene: Any = SimpleNamespace(
        meshes=[SimpleNamespace(**{n: content[f"{n}{i}"] for n in names}) for i in range(meshes)],
        textures=[content[f"texture{i}"] for i in range(textures)],
        shapes=[SimpleNamespace(mesh=int(m), texture=int(t)) for m, t in content["shapes"]],
    )
    state: Any = SimpleNamespace(poses=content["poses"], colours=content["colours"])
    cameras = [
        (content[f"view{i}"], content[f"projection{i}"], *map(int, content[f"size{i}"]))
        for i in range(views)
    ]
    images: dict[str, Any] = {}
    for i, (rgb, depth) in enumerate(FastRenderer(scene).draw(state, cameras)):
        images[f"rgb{i}"], images[f"depth{i}"] = rgb, depth
    np.savez(image_file, allow_pickle=False, **images)
