"""What our stepping costs over the PyBullet calls it cannot do without.

    python benchmarks/physics.py

The bare loop makes, per action: the inverse kinematics, nine motor commands, eight physics steps
and the two joint readings that the button and the switch need. Both loops run the same actions
from the same state.
"""

from __future__ import annotations

import numpy as np
import pybullet as p
from common import best_assets, paired

from calvin_eval.sim import TaskOracle, load_chains, make_env
from calvin_eval.sim.env import PlayTableEnv

ACTIONS, ROUNDS = 360, 7
STEP_GOAL = 1.1
RESET_GOAL = 30  # milliseconds, on a quiet core
SHOWN_GOAL = 3  # what a world that Bullet draws takes, of one that it does not


def bare_loop(env: PlayTableEnv, actions: np.ndarray) -> None:
    """The same motion by nothing but PyBullet calls, on the environment's own bodies."""
    world = env.world
    cid, robot, table = world.bullet.id, world.robot.body, world.table
    spec, scene = world.pack.robot, world.scene
    lower, upper = np.array(spec.lower_limits), np.array(spec.upper_limits)
    rest = [*scene.robot_initial_joints, 0.04, 0.04]
    wide = [-7.0] * 9, [7.0] * 9, [7.0] * 9
    position, quaternion = p.getLinkState(robot, spec.tcp_link, physicsClientId=cid)[:2]
    position, euler = np.array(position), np.array(p.getEulerFromQuaternion(quaternion))
    for action in actions:
        position += action[:3] * 0.02
        euler += action[3:6] * 0.05
        joints = p.calculateInverseKinematics(
            robot, spec.tcp_link, position, p.getQuaternionFromEuler(euler), *wide, rest,
            physicsClientId=cid,
        )  # fmt: skip
        for index, angle in enumerate(np.clip(joints[:7], lower, upper)):
            p.setJointMotorControl2(
                robot, index, p.POSITION_CONTROL, targetPosition=angle, force=200, maxVelocity=2,
                physicsClientId=cid,
            )  # fmt: skip
        opened = action[6] == 1
        for index in spec.gripper_joints:
            p.setJointMotorControl2(
                robot, index, p.POSITION_CONTROL, targetPosition=0.04 if opened else 0,
                force=2 if opened else 200, maxVelocity=1, physicsClientId=cid,
            )  # fmt: skip
        for _ in range(8):
            p.stepSimulation(physicsClientId=cid)
        for index in (0, 1):
            p.getJointState(table, index, physicsClientId=cid)


def smooth_actions() -> np.ndarray:
    """Actions (ACTIONS, 7) that wander about the table."""
    rng = np.random.default_rng(0)
    motion = np.repeat(rng.uniform(-0.6, 0.6, (ACTIONS // 12, 6)), 12, axis=0)
    grip = np.repeat(rng.choice([-1.0, 1.0], ACTIONS // 12), 12)
    return np.column_stack([motion, grip])


def main() -> None:
    """Print the ratios."""
    assets = best_assets()
    chain, actions = load_chains("official")[0], smooth_actions()
    env = make_env("D", assets=assets)
    oracle = TaskOracle(assets)
    task = chain.tasks[0]
    needs = oracle.needs((task,))

    def reset() -> None:
        env.start(chain.robot_obs, chain.scene_obs)

    def bare() -> None:
        reset()
        bare_loop(env, actions)

    def ours() -> None:
        reset()
        for action in actions:
            env.advance(action)

    def judged() -> None:
        reset()
        start = env.get_info(needs)
        for action in actions:
            env.advance(action)
            oracle.achieved(start, env.get_info(needs), (task,))

    ours()
    t_bare, t_ours = paired(bare, ours, ROUNDS)
    t_ours_again, t_judged = paired(ours, judged, ROUNDS)
    with make_env("D", assets=assets) as shown:
        shown.world.drawn_by_bullet = True
        t_reset, t_shown = paired(
            reset, lambda: shown.start(chain.robot_obs, chain.scene_obs), 2 * ROUNDS
        )
    print(f"assets {assets}; {ACTIONS} actions, medians of {ROUNDS}")
    print(f"bare PyBullet calls   {1e3 * t_bare / ACTIONS:6.3f} ms a step")
    print(f"world stepping        {1e3 * t_ours / ACTIONS:6.3f} ms a step, {t_ours / t_bare:.3f}x "
          f"(goal {STEP_GOAL}x)")  # fmt: skip
    print(f"stepping and judging  {t_judged / t_ours_again:.3f}x of stepping ({task})")
    print(f"fresh world           {1e3 * t_reset:6.1f} ms (goal {RESET_GOAL} ms)")
    print(f"with visual shapes    {t_shown / t_reset:.2f}x its time (goal {SHOWN_GOAL}x)")
    env.close()


if __name__ == "__main__":
    main()
