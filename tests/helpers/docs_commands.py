"""The calvin-eval commands in README and docs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.DOTALL)
CALL = re.compile(r"^(?:\S*\$ +)?(?:[A-Z_]+=\S+ +)*(?:\S*/)?calvin-eval +(.*)$")
# What stands for a file, a shell's variable or a choice of the reader's.
UNKNOWN = {"[KEY=VALUE]..."}
VARIABLE = re.compile(r'"?\$\{?(\w+)\}?"?')


def calls() -> Iterator[tuple[str, str]]:
    """Pages and the arguments of the commands in them, in the order of the page."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                if (found := CALL.match(line.strip())) is not None:
                    yield page.name, found[1]


def words_of(arguments: str) -> list[str]:
    """The arguments as a shell would split them, with a number for every variable."""
    words = shlex.split(VARIABLE.sub("7", arguments.replace("$resume", "")), comments=True)
    end = next((i for i, word in enumerate(words) if word in {"|", "&&", ">", ";"}), len(words))
    return [word for word in words[:end] if word not in UNKNOWN]
