"""What is read from a LeRobot folder's JSON files; LeRobot itself is not needed."""

import json
from importlib.util import find_spec

import pytest

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.wrappers.loaders import declared, resolve
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.detect import detect
from calvin_eval.wrappers.loaders.lerobot.cameras import guess_camera, map_cameras
from calvin_eval.wrappers.loaders.lerobot.features import read_declared

IMAGES = "observation.images"


def write(folder, *, images=("image",), state=15, action=7, rename=None, size=(64, 96), extra=()):
    inputs = {f"{IMAGES}.{n}": {"type": "VISUAL", "shape": [3, *size]} for n in images}
    if state is not None:
        inputs["observation.state"] = {"type": "STATE", "shape": [state]}
    inputs |= dict(extra)
    config = {
        "type": "act",
        "input_features": inputs,
        "output_features": {"action": {"type": "ACTION", "shape": [action]}},
    }
    rename_map = {f"{IMAGES}.{k}": f"{IMAGES}.{v}" for k, v in (rename or {}).items()}
    steps = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": rename_map}},
        {"registry_name": "normalizer_processor", "state_file": "statistics.safetensors"},
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "pre", "steps": steps}))
    (folder / "policy_postprocessor.json").write_text(json.dumps({"name": "post", "steps": []}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def read(folder, trust=False, **options):
    return read_declared(Source(ckpt=str(folder), options=options, trust=trust))


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_is_recognised_by_its_config(tmp_path):
    write(tmp_path / "step" / "pretrained_model")
    assert detect(tmp_path / "step" / "pretrained_model") == "lerobot"
    assert detect(tmp_path / "step") == "lerobot"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="no kind"):
        detect(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("observation.images.wrist_image", "gripper"),
        ("observation.images.rgb_gripper", "gripper"),
        ("observation.images.eye_in_hand", "gripper"),
        ("observation.images.left_wrist_0_rgb", "gripper"),
        ("observation.images.rgb_static", "static"),
        ("observation.image", "static"),
        ("observation.images.base_0_rgb", "static"),
        ("observation.images.agentview", "static"),
        ("observation.images.camera1", None),
    ],
)
def test_cameras_are_told_by_name(name, camera):
    assert guess_camera(name) == camera


def shapes(*names):
    return {f"{IMAGES}.{name}": (3, 8, 8) for name in names}


def test_a_single_image_is_the_static_camera_unless_its_name_says_otherwise():
    assert map_cameras(shapes("cam"), {}, {}) == {f"{IMAGES}.cam": "static"}
    assert map_cameras(shapes("wrist"), {}, {}) == {f"{IMAGES}.wrist": "gripper"}


def test_what_is_not_clear_is_refused_with_the_option_to_set():
    for names in (("camera1", "camera2"), ("image", "image2"), ("front", "top", "wrist")):
        with pytest.raises(CheckpointError) as raised:
            map_cameras(shapes(*names), {}, {})
        assert f"{IMAGES}.{names[0]} (3, 8, 8)" in str(raised.value)
        assert f"policy.options.cameras.{names[1]}=static" in str(raised.value)
    half = {"camera1": "static"}
    with pytest.raises(CheckpointError, match="camera2"):
        map_cameras(shapes("camera1", "camera2"), half, {})


def test_cameras_are_set_by_full_or_short_name_and_left_out_by_null():
    features = shapes("camera1", "camera2", "camera3")
    given = {"camera1": "gripper", "observation": {"images": {"camera2": "static"}}}
    mapped = map_cameras(features, {**given, "camera3": None}, {})
    assert mapped == {f"{IMAGES}.camera1": "gripper", f"{IMAGES}.camera2": "static"}
    with pytest.raises(UnknownNameError, match="camera4"):
        map_cameras(features, {"camera4": "static"}, {})
    with pytest.raises(UnknownNameError, match="statik"):
        map_cameras(features, {"camera1": "statik"}, {})
    with pytest.raises(UsageError, match="feature: camera"):
        map_cameras(features, "static", {})


def test_names_of_the_training_data_and_empty_cameras_count(tmp_path):
    renamed = write(
        tmp_path, images=("camera1", "camera2", "empty_camera_0"),
        rename={"front": "camera1", "wrist": "camera2"},
    )  # fmt: skip
    assert read(renamed).cameras == {
        f"{IMAGES}.camera1": "static",
        f"{IMAGES}.camera2": "gripper",
    }


@pytest.mark.parametrize(("width", "fields"), [(15, "all"), (8, "eight"), (7, "seven")])
def test_stages_are_declared_without_loading_anything(tmp_path, width, fields):
    write(tmp_path, images=("front", "wrist"), state=width)
    observe, actions = declared(Source(ckpt=str(tmp_path), options={}))  # type: ignore[misc]
    assert observe == {
        "images_static": {"use": "images", "cameras": ["static"], "size": [96, 64]},
        "images_gripper": {"use": "images", "cameras": ["gripper"], "size": [96, 64]},
        "proprioception": {"fields": fields},
    }
    assert actions == {"gripper": {"input": "signed"}}


def test_the_state_is_chosen_or_left_to_the_user(tmp_path):
    write(tmp_path, state=2)
    with pytest.raises(CheckpointError, match=r"2 numbers; expected 15 .*policy\.options\.state"):
        read(tmp_path)
    assert read(tmp_path, state=[0, 14]).observe()["proprioception"] == {"fields": [0, 14]}
    assert "proprioception" not in read(tmp_path, state=None).observe()
    with pytest.raises(UsageError, match="no state"):
        read(write(tmp_path / "none", state=None), state=[0])


def test_inputs_without_a_counterpart_are_refused(tmp_path):
    environment = {"observation.environment_state": {"type": "ENV", "shape": [4]}}
    with pytest.raises(CheckpointError, match="environment_state"):
        read(write(tmp_path / "env", extra=environment))
    depth = {f"{IMAGES}.wrist_depth": {"type": "VISUAL", "shape": [1, 8, 8]}}
    with pytest.raises(CheckpointError, match=r"colour image .* found \(1, 8, 8\)"):
        read(write(tmp_path / "depth", extra=depth))
    two = {f"{IMAGES}.other": {"type": "VISUAL", "shape": [3, 8, 8]}}
    sizes = read(write(tmp_path / "two", extra=two), cameras={"image": "static", "other": "static"})
    with pytest.raises(CheckpointError, match="one size"):
        sizes.observe()
    with pytest.raises(CheckpointError, match=r"action_width=6"):
        read(write(tmp_path / "six", action=6))


def test_broken_folders_are_explained(tmp_path):
    old = write(tmp_path / "old")
    (old / "policy_preprocessor.json").unlink()
    with pytest.raises(CheckpointError, match="migrate_policy_normalization"):
        read(old)
    bare = write(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read(bare)
    adapter = write(tmp_path / "adapter")
    change(adapter / "config.json", use_peft=True)
    with pytest.raises(CheckpointError, match="merge"):
        read(adapter)
    broken = write(tmp_path / "broken")
    (broken / "policy_postprocessor.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(broken)
    shapeless = write(tmp_path / "shapeless")
    change(shapeless / "config.json", output_features={"action": {"type": "ACTION"}})
    with pytest.raises(CheckpointError, match="output_features"):
        read(shapeless)


def test_code_in_processors_needs_trust(tmp_path):
    write(tmp_path)
    change(tmp_path / "policy_postprocessor.json", steps=[{"class": "os.system"}])
    with pytest.raises(CheckpointError, match=r"os\.system.*--trust"):
        read(tmp_path)
    assert read(tmp_path, trust=True).postprocessor["steps"] == [{"class": "os.system"}]
    change(
        tmp_path / "policy_postprocessor.json", steps=[{"registry_name": "x", "state_file": "../x"}]
    )
    with pytest.raises(CheckpointError, match="outside"):
        read(tmp_path)


def test_unknown_options_are_errors(tmp_path):
    with pytest.raises(UnknownNameError, match="camera"):
        read(write(tmp_path), camera="static")


@pytest.mark.skipif(find_spec("lerobot") is not None, reason="lerobot is installed")
def test_without_lerobot_the_way_to_get_it_is_said(tmp_path, monkeypatch):
    folder = write(tmp_path / "policy")
    (folder / "statistics.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"not installed.*calvin-eval\[lerobot\].*policy\.py"):
        resolve(str(folder))
    (tmp_path / "lerobot").mkdir()
    (tmp_path / "lerobot" / "__init__.py").write_text("raise TypeError('non-default argument')")
    facts = tmp_path / "lerobot-0.4.4.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: lerobot\nVersion: 0.4.4\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match=r"0\.4\.4 cannot be imported here \(TypeError: non"):
        resolve(str(folder))
