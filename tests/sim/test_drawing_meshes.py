from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calvin_eval.errors import AssetError, UsageError
from calvin_eval.sim.drawing.meshes import box, cylinder, load_mesh, obj_texture
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.drawing.textures import load_texture

SQUARE = "v 0 0 0\nv 2 0 0\nv 2 2 0\nv 0 2 0\n"


def obj(folder: Path, text: str) -> Path:
    path = folder / "mesh.obj"
    path.write_text(text)
    return path


def soup(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, normals and texture coordinates (T, 3, n) of the triangles in their order."""
    mesh = load_mesh(path)
    return tuple(a[mesh.triangles] for a in (mesh.positions, mesh.normals, mesh.uvs))  # type: ignore[return-value]


def test_polygons_are_fanned_and_get_their_own_normals(tmp_path: Path) -> None:
    positions, normals, uvs = soup(obj(tmp_path, SQUARE + "f 1 2 3 4\n"))
    assert positions.tolist() == [
        [[0, 0, 0], [2, 0, 0], [2, 2, 0]],
        [[0, 0, 0], [2, 2, 0], [0, 2, 0]],
    ]
    assert (normals == [0, 0, 1]).all()
    assert (uvs == 0.5).all()


def test_corners_that_are_alike_are_one(tmp_path: Path) -> None:
    mesh = load_mesh(obj(tmp_path, SQUARE + "f 1 2 3 4\nf -4 -3 -2\n"))
    assert len(mesh.positions) == 4
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]


def test_a_triangle_takes_the_files_normals_only_if_all_three_exist(tmp_path: Path) -> None:
    text = SQUARE + "vn 1 0 0\nvn 0 5 0\nf 1//1 2//2 3//1\nf 1//1 2//2 3//3\n"
    _, normals, _ = soup(obj(tmp_path, text))
    assert normals[0].tolist() == [[1, 0, 0], [0, 5, 0], [1, 0, 0]]  # as they are, of any length
    assert (normals[1] == [0, 0, 1]).all()


def test_a_triangle_without_area_has_no_normal(tmp_path: Path) -> None:
    _, normals, _ = soup(obj(tmp_path, SQUARE + "f 1 2 2\n"))
    assert (normals == 0).all()


def test_missing_texture_coordinates_are_zero_where_others_have_some(tmp_path: Path) -> None:
    _, _, uvs = soup(obj(tmp_path, SQUARE + "vt 0.25 0.75\nf 1/1 2/1 3/1\nf 1 2 3\n"))
    assert (uvs[0] == [0.25, 0.75]).all()
    assert (uvs[1] == 0).all()


def test_a_binary_stl_has_its_own_normals(tmp_path: Path) -> None:
    layout = np.dtype([("numbers", "<f4", 12), ("attribute", "<u2")])
    facet = np.zeros(1, layout)
    facet["numbers"] = [0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    path = tmp_path / "mesh.STL"
    path.write_bytes(bytes(80) + (1).to_bytes(4, "little") + facet.tobytes())
    positions, normals, uvs = soup(path)
    assert positions.tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]
    assert (normals == [0, 0, 9]).all()
    assert (uvs == 0.5).all()
    path.write_bytes(path.read_bytes() + b"x")
    load_mesh.cache_clear()
    with pytest.raises(AssetError, match="another length than it announces"):
        load_mesh(path)


def test_a_mesh_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"nothing\.obj"):
        load_mesh(tmp_path / "nothing.obj")
    with pytest.raises(AssetError, match="OBJ or STL"):
        load_mesh(tmp_path / "mesh.dae")
    with pytest.raises(AssetError, match="cannot read"):
        load_mesh(obj(tmp_path, SQUARE + "f 1 2 9\n"))


def test_scaling_and_moving_leave_normals_their_length(tmp_path: Path) -> None:
    mesh = load_mesh(obj(tmp_path, SQUARE + "f 1 2 3\n"))
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = mesh.moved((2, 1, 1), (0, 0, 5), quarter)
    assert moved.positions.tolist() == [[0, 0, 5], [0, 4, 5], [-2, 4, 5]]
    assert (moved.normals == [0, 0, 1]).all()


def test_the_first_used_material_with_an_image_serves_the_whole_mesh(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), "red").save(tmp_path / "red.png")
    (tmp_path / "m.mtl").write_text(
        "newmtl plain\nKd 1 0 0\nnewmtl lost\nmap_Kd lost.png\nnewmtl red\nmap_Kd red.png\n"
    )
    text = "mtllib m.mtl\nusemtl plain\nusemtl lost\nusemtl red\n"
    assert obj_texture(obj(tmp_path, text)) == tmp_path / "red.png"
    obj_texture.cache_clear()
    assert obj_texture(obj(tmp_path, "mtllib m.mtl\nusemtl lost\n")) is None


def test_textures_start_at_the_bottom_and_lose_their_alpha(tmp_path: Path) -> None:
    image = Image.new("RGBA", (1, 2), (10, 20, 30, 0))
    image.putpixel((0, 1), (40, 50, 60, 128))
    image.save(tmp_path / "image.png")
    texture = load_texture(tmp_path / "image.png")
    assert texture is not None
    assert texture.tolist() == [[[40, 50, 60]], [[10, 20, 30]]]
    assert load_texture(tmp_path / "nothing.png") is None


@pytest.mark.parametrize("extents", [(0.04, 0.04, 0.04), (0.08, 0.04, 0.04), (0.02, 0.3, 0.1)])
def test_a_box_is_closed_and_faces_outwards(extents: tuple[float, float, float]) -> None:
    mesh = box(extents)
    assert (mesh.positions.shape, mesh.triangles.shape) == ((8, 3), (12, 3))
    assert np.allclose(abs(mesh.positions), np.array(extents) / 2)
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1)
    assert volume(mesh) == pytest.approx(np.prod(extents), rel=1e-5)


def test_a_cylinder_is_closed_and_a_millimetre_too_large() -> None:
    mesh = cylinder(0.24, 0.13)
    assert len(mesh.positions) == 32
    assert abs(mesh.positions[:, 2]).max() == pytest.approx(0.121)
    assert np.hypot(*mesh.positions[:, :2].T).max() == pytest.approx(0.131, abs=1e-4)
    assert 0.85 < volume(mesh) / (np.pi * 0.13**2 * 0.24) < 1
    assert len(cylinder(0.6, 0.13).positions) == 32


def volume(mesh: object) -> float:
    """Signed volume inside a closed surface: wrong if any triangle is missing or turned."""
    a, b, c = mesh.positions[mesh.triangles].astype(float).transpose(1, 0, 2)  # type: ignore[attr-defined]
    return float((a * np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize(
    "options",
    [
        {"depth_bits": 32}, {"depth_bits": 16.0}, {"colour_bits": 9}, {"colour_bits": []},
        {"shadow_detail": -1.0}, {"shadow_detail": 10.1}, {"shadow_detail": "much"},
        {"first_frames_unshadowed": "no"}, {"nothing": 1},
    ],
)  # fmt: skip
def test_options_that_there_are_not(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        DrawOptions.from_json(options)


def test_options_are_what_their_json_says() -> None:
    options = DrawOptions(depth_bits=24, shadow_detail=0.5)
    assert DrawOptions.from_json(options.as_dict()) == options
    assert DrawOptions.from_json({}) == DrawOptions()
