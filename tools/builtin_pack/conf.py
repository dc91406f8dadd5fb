"""Scenes, robot, cameras and task thresholds as YAML."""

from __future__ import annotations

CONF = "calvin_env/conf"
TASKS_PATH = "calvin_models/conf/callbacks/rollout/tasks/new_playtable_tasks.yaml"
SLIDER_AD = (
    "[[-0.32, 0.05, 0.46], [-0.16, 0.12, 0.46]]",
    "[[-0.05, 0.05, 0.46], [0.13, 0.12, 0.46]]",
)
# Free table top, left and right place in the cabinet: lower and upper corner for a block's centre.
SURFACES = {
    "A": ("[[-0.2, -0.15, 0.46], [0.35, -0.03, 0.46]]", *SLIDER_AD),
    "B": (
        "[[-0.35, -0.15, 0.46], [0.15, -0.03, 0.46]]",
        "[[-0.12, 0.05, 0.46], [0.06, 0.12, 0.46]]",
        "[[0.15, 0.05, 0.46], [0.33, 0.12, 0.46]]",
    ),
    "C": (
        "[[0.0, -0.15, 0.46], [0.35, -0.03, 0.46]]",
        "[[-0.12, 0.05, 0.46], [0.06, 0.12, 0.46]]",
        "[[0.15, 0.05, 0.46], [0.3, 0.12, 0.46]]",
    ),
    "D": ("[[0.0, -0.15, 0.46], [0.35, -0.03, 0.46]]", *SLIDER_AD),
}
BLOCKS = {
    "A": (("pink", "small"), ("blue", "big"), ("red", "middle")),
    "B": (("red", "small"), ("blue", "big"), ("pink", "middle")),
    "C": (("blue", "small"), ("red", "big"), ("pink", "middle")),
    "D": (("red", "middle"), ("blue", "small"), ("pink", "big")),
}


def conf_files() -> dict[str, str]:
    """Returns all configuration files by their path in the pack."""
    files = {f"{CONF}/scene/calvin_scene_{scene}.yaml": _scene(scene) for scene in SURFACES}
    files[f"{CONF}/robot/panda_longer_finger.yaml"] = ROBOT
    files[f"{CONF}/cameras/cameras/static.yaml"] = STATIC
    files[f"{CONF}/cameras/cameras/gripper.yaml"] = GRIPPER
    files[TASKS_PATH] = _tasks()
    return files


def _scene(scene: str) -> str:
    table, left, right = SURFACES[scene]
    text = f"""# Scene {scene} of the built-in pack. Metres and radians in the loaded world.
global_scaling: 0.8  # of the table and the blocks; robot and floor are loaded as they are
robot_base_position: [-0.34, -0.46, 0.24]
robot_base_orientation: [0, 0, 0]
robot_initial_joint_positions:
  [-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866]
# Where the centre of a block may start: corners of an area.
surfaces:
  table: {table}
  slider_left: {left}
  slider_right: {right}
objects:
  fixed_objects:
    table:
      file: calvin_table_{scene}/urdf/calvin_table_{scene}.urdf
      initial_pos: [0, 0, 0]
      initial_orn: [0, 0, 0]
      joints:
        base__slide: {{initial_state: 0}}
        base__drawer: {{initial_state: 0}}
      buttons:
        base__button: {{initial_state: 0, effect: led}}
      switches:
        base__switch: {{initial_state: 0, effect: lightbulb}}
      lights:  # colour when lit
        lightbulb: {{link: light_link, color: [1, 1, 0, 1]}}
        led: {{link: led_link, color: [0, 1, 0, 1]}}
  movable_objects:  # in the order of the state vector
"""
    for colour, size in BLOCKS[scene]:
        text += f"""    block_{colour}:
      file: blocks/block_{colour}_{size}.urdf
      initial_pos: any
      initial_orn: any
"""
    return text


ROBOT = """# Franka Panda with long fingers and gel pads.
filename: franka_panda/panda_longer_finger.urdf
max_joint_force: 200.0
gripper_force: 200
arm_joint_ids: [0, 1, 2, 3, 4, 5, 6]
lower_joint_limits: [-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]
upper_joint_limits: [2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]
gripper_joint_ids: [9, 11]
gripper_joint_limits: [0, 0.04]  # of one finger
tcp_link_id: 15
end_effector_link_id: 7
max_velocity: 2
# Metres and radians of one step when a relative action is 1.
max_rel_pos: 0.02
max_rel_orn: 0.05
"""

STATIC = """# Looks down on the table from the front right, almost without perspective.
name: static
fov: 10
aspect: 1
nearval: 0.01
farval: 10
width: 200
height: 200
look_at: [-0.026242351159453392, -0.0302329882979393, 0.3920000493526459]
look_from: [2.871459009488717, -2.166602199425597, 2.555159848480571]
up_vector: [0.4041403970338857, 0.22629790978217404, 0.8862616969685161]
"""

GRIPPER = """# Rides on the link gripper_cam of the robot.
name: gripper
fov: 75
aspect: 1
nearval: 0.01
farval: 2
width: 84
height: 84
"""


def _tasks() -> str:
    """Writes the thresholds; the order of the tasks is part of the benchmark."""
    colours = ("red", "blue", "pink")
    sides = (("right", -1), ("left", 1))
    lines = [
        "# Task: [function, arguments...]. Degrees and metres; positive turns are to the left."
    ]
    lines += ["tasks:"]
    for colour in colours:
        for side, sign in sides:
            lines.append(
                f"  rotate_{colour}_block_{side}: [rotate_object, block_{colour}, {sign * 60}]"
            )
    for colour in colours:
        for side, sign in sides:
            lines.append(
                f"  push_{colour}_block_{side}: [push_object, block_{colour}, {-sign * 0.1}, 0]"
            )
    lines += [
        "  move_slider_left: [move_door_rel, base__slide, 0.15]",
        "  move_slider_right: [move_door_rel, base__slide, -0.15]",
        "  open_drawer: [move_door_rel, base__drawer, 0.12]",
        "  close_drawer: [move_door_rel, base__drawer, -0.12]",
    ]
    places = (
        ("table", "0.05", "base_link"),
        ("slider", "0.03", "plank_link"),
        ("drawer", "0.05", "drawer_link"),
    )
    for colour in colours:
        for place, rise, link in places:
            name = f"lift_{colour}_block_{place}"
            lines.append(f"  {name}: [lift_object, block_{colour}, {rise}, table, {link}]")
    lines += [
        "  place_in_slider: [place_object, table, plank_link]",
        "  place_in_drawer: [place_object, table, drawer_link]",
        "  stack_block: [stack_objects]",
        "  unstack_block: [unstack_objects]",
        "  turn_on_lightbulb: [toggle_light, lightbulb, 0, 1]",
        "  turn_off_lightbulb: [toggle_light, lightbulb, 1, 0]",
        "  turn_on_led: [toggle_light, led, 0, 1]",
        "  turn_off_led: [toggle_light, led, 1, 0]",
        "  push_into_drawer: [push_object_into, [block_red, block_blue, block_pink],"
        " table, base_link, table, drawer_link]",
    ]
    return "\n".join(lines) + "\n"
