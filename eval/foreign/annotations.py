"""Where a split of a data set in CALVIN's format keeps its language annotations.

Facts of the format: CALVIN, dataset README. The folder is named after the language model whose
embeddings it has: `lang_annotations` in CALVIN's own data, `lang_clip_resnet50`,
`lang_paraphrase-MiniLM-L3-v2` and others where somebody embedded the sentences again. Sentences,
tasks and spans are the same in all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FILE: Final = "auto_lang_ann.npy"
USUAL: Final = f"lang_annotations/{FILE}"


def find_annotations(split: Path) -> Path | None:
    """The file of a split's annotations; None if it has none.

    Where there are several, CALVIN's own folder comes first, then the split itself, then other
    folders by their names.
    """
    for path in (split / USUAL, split / FILE):
        if path.is_file():
            return path
    others = split.glob(f"*/{FILE}") if split.is_dir() else ()
    return min(others, default=None)
