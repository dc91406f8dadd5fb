"""Whether a header says alike what it says twice: in `config`, and in the section of the thing.

What a run was started with decides what its header says of chains, images and stages. Someone who
edits one of the two is found; someone who edits both alike is not, see `results/ledger.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import SPLITS
from calvin_eval.results.header import HEADER, Header
from calvin_eval.results.store import RunFolder
from calvin_eval.results.verification import Deviation
from calvin_eval.sim.chains import name_of_list
from calvin_eval.sim.instructions import name_of_instructions

_SIDES = ("observe", "actions")


def disagreements(header: Header) -> Iterator[Deviation]:
    """Every entry of a header that is not what its configuration makes of it."""
    yield from _things(header)
    yield from _images(header)
    yield from _options(header)
    for side in _SIDES:
        yield from _stages(header, side)


def disagreeing_profile(folder: RunFolder, header: Header) -> Iterator[Deviation]:
    """The measured waits of a run in real time, where the header says that the world waits."""
    if header.protocol.realtime.latency is not None or not (folder.path / "profile.json").exists():
        return
    try:
        profile = folder.read_json("profile.json")
    except RunFolderError:  # nothing else depends on it
        return
    if isinstance(profile, Mapping) and "realtime" in profile:
        yield Deviation(
            what=f"{HEADER}: config.protocol.realtime",
            expected="a world that goes on, as profile.json has times of one",
            found="a world that waits",
        )


def _things(header: Header) -> Iterator[Deviation]:
    """Scene, assets, lists and policy."""
    config, rules = header.config, header.protocol
    yield from _same("scene", SPLITS.get(config.split), header.scene, "config.split")
    yield from _same("policy.ckpt", config.ckpt, header.policy.ckpt, "config.ckpt")
    yield from _same(
        "chains.list", name_of_list(rules.chains), header.chains.list, "config.protocol.chains"
    )
    yield from _same(
        "instructions.name", name_of_instructions(rules.instructions), header.instructions.name,
        "config.protocol.instructions",
    )  # fmt: skip
    if "builtin" in (config.sim.assets, header.assets.name):
        yield from _same("assets.name", config.sim.assets, header.assets.name, "config.sim.assets")
    policy = header.document["policy"]
    if "seed" in policy:
        yield from _same("policy.seed", config.seed, policy["seed"], "config.seed")


def _images(header: Header) -> Iterator[Deviation]:
    """Who drew, and for whom."""
    needs, drawn = header.policy.requirements, header.renderer
    sim = _section(header, "sim")
    seen = {*needs.rgb, *needs.depth}
    if strange := sorted(set(needs.sizes) - seen):
        yield Deviation(
            what=f"{HEADER}: policy.requirements.sizes",
            expected="sizes of cameras that the policy looks at",
            found=", ".join(strange),
        )
    if bool(seen) != (drawn.backend != "none"):
        yield Deviation(
            what=f"{HEADER}: renderer.backend",
            expected="a renderer, as the policy sees images" if seen else "none, as it sees none",
            found=drawn.backend,
        )
    if seen and "render" in sim:
        yield from _same("renderer.requested", sim["render"], drawn.requested, "config.sim.render")
    options, asked = drawn.options, sim.get("draw")
    if seen and options is not None and isinstance(asked, Mapping):
        both = {key: asked[key] for key in options if key in asked}
        yield from _same("renderer.options", both, dict(options), "config.sim.draw")


def _options(header: Header) -> Iterator[Deviation]:
    """Options of the policy; a loader may drop or add some, but no reset of its own."""
    asked, used = _section(header, "policy").get("options"), header.policy.options
    asked = asked if isinstance(asked, Mapping) else {}
    for name in asked:
        if name in used or name == "reset":
            where = f"config.policy.options.{name}"
            yield from _same(f"policy.options.{name}", asked[name], used.get(name), where)


def _stages(header: Header, side: str) -> Iterator[Deviation]:
    """Stages that were added by hand are in use, and those that were taken away are not."""
    asked, used = _section(header, "policy").get(side), header.policy.stages.get(side, {})
    for label, options in (asked if isinstance(asked, Mapping) else {}).items():
        what, where = f"policy.stages.{side}.{label}", f"config.policy.{side}.{label}"
        if options is None or label not in used:
            if (options is None) == (label in used):
                yield Deviation(
                    what=f"{HEADER}: {what}",
                    expected=f"{'none' if options is None else 'a stage'}, as {where} says",
                    found="one" if label in used else "none",
                )
        elif isinstance(options, Mapping) and "use" in options:
            entry = used[label]
            found = entry.get("use") if isinstance(entry, Mapping) else entry
            yield from _same(f"{what}.use", options["use"], found, f"{where}.use")


def _section(header: Header, name: str) -> Mapping[str, Any]:
    section = header.document["config"].get(name)
    return section if isinstance(section, Mapping) else {}


def _same(what: str, expected: Any, found: Any, where: str) -> Iterator[Deviation]:
    if expected != found:
        yield Deviation(
            what=f"{HEADER}: {what}",
            expected=f"{_brief(expected)}, as {where} says",
            found=_brief(found),
        )


def _brief(value: Any, most: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}…"
