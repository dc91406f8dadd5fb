"""Language labels: which sentence goes with which frames, in CALVIN's form.

Facts of the format: CALVIN, dataset README. `auto_lang_ann.npy` is a pickled dict.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from calvin_eval.files import write_atomic
from calvin_eval.rollouts.recording.episode import Episode
from calvin_eval.sim.symbolic import BLOCKS, TASK_NAMES

ANNOTATIONS: Final = "lang_annotations/auto_lang_ann.npy"

_PARAPHRASES = Path(__file__).with_name("paraphrases.yaml")


@cache
def paraphrases() -> Mapping[str, tuple[str, ...]]:
    """Sentences for each of the 34 tasks, from the package's own file."""
    families = yaml.safe_load(_PARAPHRASES.read_text(encoding="utf-8"))
    return {task: _sentences(task, families) for task in TASK_NAMES}


def _sentences(task: str, families: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if task in families:
        return tuple(families[task])
    color = next(block for block in BLOCKS if block in task).removesuffix("_block")
    side = task.rpartition("_")[2]
    family = task.replace(color, "COLOR")
    if side in ("left", "right"):
        family = family.replace(side, "SIDE")
    return tuple(text.format(color=color, side=side) for text in families[family])


def write_labels(
    folder: Path,
    episodes: Sequence[Episode],
    sentences: Mapping[str, Sequence[str]],
    seed: Sequence[int],
) -> int:
    """Write a split's annotations; returns how many there are.

    Args:
        folder: of the split.
        episodes: in order; their frames are numbered one after the other.
        sentences: by task; which one a demonstration gets is drawn.
        seed: of the draw, together with the episode's number.
    """
    texts, tasks, spans = [], [], []
    start = 0
    for episode in episodes:
        rng = np.random.default_rng((*seed, episode.number))
        for subtask in episode.subtasks:
            choice = sentences[subtask.task]
            text = choice[int(rng.integers(len(choice)))]
            if subtask.label is not None:
                # Equal texts as one object: a pickle shows which are the same.
                texts.append(sys.intern(text))
                tasks.append(sys.intern(subtask.task))
                spans.append((start + subtask.label, start + subtask.end))
        start += episode.frames
    # Embeddings are left to the model that uses them: their array has a width of zero.
    content = {
        "language": {"ann": texts, "task": tasks, "emb": np.zeros((len(texts), 1, 0), np.float32)},
        "info": {"episodes": [], "indx": spans},
    }
    save_plain(folder / ANNOTATIONS, content)
    return len(texts)


def save_plain(path: Path, content: Mapping[str, Any]) -> None:
    """Write a dict as `np.save` does, readable with NumPy of any version."""
    box = np.empty((), dtype=object)
    box[()] = dict(content)
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "|O", "fortran_order": False, "shape": ()})
    # In protocol 3 names end with a newline, and NumPy 1 knows this one by its old name only.
    pickled = pickle.dumps(box, protocol=3)
    data.write(pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())
