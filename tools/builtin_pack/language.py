"""Instructions in our own words: one per task for evaluation, several for training."""

from __future__ import annotations

import json

ANNOTATIONS = "calvin_models/conf/annotations"
COLOURS = ("red", "blue", "pink")
TURN = {"right": "clockwise", "left": "counterclockwise"}

# The first sentence of a task is the one used for evaluation.
ROTATE = (
    "twist the {c} block around to the {s}",
    "give the {c} block a quarter turn to the {s}",
    "spin the {c} block {t}",
    "pick up the {c} block, turn it {t} and set it down again",
    "make the {c} block face further to the {s}",
    "rotate the {c} cuboid {t} by about ninety degrees",
)
PUSH = (
    "shove the {c} block over to the {s}",
    "slide the {c} block along the table towards the {s}",
    "move the {c} block a bit further {s}",
    "nudge the {c} block until it is more to the {s}",
    "shift the {c} block {s}ward on the table",
    "make the {c} block slide to its {s}",
)
LIFT = {
    "table": (
        "pick the {c} block up off the table",
        "raise the {c} block above the tabletop",
        "grab hold of the {c} block on the table and hold it up",
        "take the {c} block off the desk into the air",
        "hoist the {c} block from the table",
        "get the {c} block in the gripper and move it upwards",
    ),
    "slider": (
        "pick the {c} block up out of the cabinet",
        "reach into the cabinet and raise the {c} block",
        "fetch the {c} block that lies behind the sliding door",
        "grab the {c} block on the cabinet floor and hold it up",
        "get the {c} block off the shelf of the cabinet",
        "hoist the {c} block from inside the cabinet",
    ),
    "drawer": (
        "pick the {c} block up out of the open drawer",
        "reach into the drawer and raise the {c} block",
        "fetch the {c} block lying in the drawer",
        "grab the {c} block at the bottom of the drawer and hold it up",
        "remove the {c} block from the drawer",
        "hoist the {c} block out of the drawer",
    ),
}
OTHERS = {
    "move_slider_left": (
        "slide the cabinet door all the way over to the left",
        "move the door of the cabinet leftwards",
        "drag the door by its grip to the left",
        "uncover the right half of the cabinet",
        "shift the cabinet's sliding panel left",
        "take the door handle and bring it to the left",
    ),
    "move_slider_right": (
        "slide the cabinet door all the way over to the right",
        "move the door of the cabinet rightwards",
        "drag the door by its grip to the right",
        "uncover the left half of the cabinet",
        "shift the cabinet's sliding panel right",
        "take the door handle and bring it to the right",
    ),
    "open_drawer": (
        "draw the drawer out towards you",
        "get the drawer under the table open",
        "hook the drawer grip and drag it out",
        "pull out the drawer as far as it goes",
        "make the inside of the drawer reachable",
        "slide the drawer outwards",
    ),
    "close_drawer": (
        "shove the drawer back in until it is shut",
        "shut the drawer under the table",
        "slide the drawer inwards again",
        "move the drawer all the way back under the tabletop",
        "press against the drawer front so that it shuts",
        "make sure the drawer is no longer open",
    ),
    "place_in_slider": (
        "set the block you are holding down inside the cabinet",
        "lay the held block on the shelf behind the sliding door",
        "leave the block in the cabinet",
        "bring the block in the gripper to the cabinet and let go",
        "deposit the block on the cabinet floor",
        "put what you hold behind the door",
    ),
    "place_in_drawer": (
        "set the block you are holding down inside the drawer",
        "drop the held block into the open drawer",
        "leave the block in the drawer",
        "bring the block in the gripper over the drawer and let go",
        "deposit the block at the bottom of the drawer",
        "put what you hold into the drawer",
    ),
    "push_into_drawer": (
        "shove a block off the table edge so that it drops into the open drawer",
        "make one of the blocks on the table fall into the drawer",
        "sweep a block from the table down into the drawer",
        "push the block forward until it tumbles into the drawer",
        "nudge a block over the front edge into the drawer",
        "without gripping it, get a block from the table into the drawer",
    ),
    "stack_block": (
        "put the block you are holding on top of another block",
        "build a tower of two blocks with the one in the gripper",
        "set the held block down on another one",
        "place your block so that it rests on a different block",
        "balance the block in the gripper on one of the others",
        "make a pile with the block you hold",
    ),
    "unstack_block": (
        "take the upper block off the tower",
        "bring the top block back down from the pile",
        "separate the two piled blocks",
        "undo the tower of blocks",
        "get the block that rests on another one off it",
        "knock down or lift off the topmost block",
    ),
    "turn_on_lightbulb": (
        "flip the lever up so that the yellow bulb shines",
        "push the lever upwards to light the bulb",
        "get the bulb glowing with the sliding switch",
        "raise the switch until the bulb is lit",
        "switch the yellow lamp on",
        "make the round lamp shine",
    ),
    "turn_off_lightbulb": (
        "flip the lever down so that the yellow bulb goes dark",
        "push the lever downwards to put the bulb out",
        "stop the bulb glowing with the sliding switch",
        "lower the switch until the bulb is dark",
        "switch the yellow lamp off",
        "make the round lamp go out",
    ),
    "turn_on_led": (
        "push down the button until the green light comes on",
        "hit the black button to light up the green bar",
        "get the green led shining with the button",
        "use the button on the table to switch the green light on",
        "tap the round button so that the led glows",
        "make the green lamp light up",
    ),
    "turn_off_led": (
        "push down the button until the green light goes out",
        "hit the black button to darken the green bar",
        "stop the green led shining with the button",
        "use the button on the table to switch the green light off",
        "tap the round button so that the led goes dark",
        "make the green lamp go dark",
    ),
}


def sentences() -> dict[str, list[str]]:
    """Returns all instructions of each task."""
    table: dict[str, list[str]] = {}
    for verb, patterns in (("rotate", ROTATE), ("push", PUSH)):
        for colour in COLOURS:
            for side, turn in TURN.items():
                table[f"{verb}_{colour}_block_{side}"] = [
                    pattern.format(c=colour, s=side, t=turn) for pattern in patterns
                ]
    for place, patterns in LIFT.items():
        for colour in COLOURS:
            table[f"lift_{colour}_block_{place}"] = [p.format(c=colour) for p in patterns]
    return table | {task: list(patterns) for task, patterns in OTHERS.items()}


def language_files() -> dict[str, str]:
    """Returns both annotation files by their path in the pack."""
    table = sentences()
    short = ["# The instruction given for each task in an evaluation."]
    short += [f"{task}: [{json.dumps(lines[0])}]" for task, lines in table.items()]
    long = ["# Ways to ask for each task, for language-conditioned training data."]
    for task, lines in table.items():
        long += [f"{task}:", *(f"  - {json.dumps(line)}" for line in lines)]
    return {
        f"{ANNOTATIONS}/new_playtable_validation.yaml": "\n".join(short) + "\n",
        f"{ANNOTATIONS}/new_playtable.yaml": "\n".join(long) + "\n",
    }
