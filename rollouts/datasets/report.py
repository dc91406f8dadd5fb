"""All checks of a data set, and what their results mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calvin_eval.errors import UnknownNameError
from calvin_eval.protocol import SCENES
from calvin_eval.rollouts.datasets.checks import Fault, SplitFacts, check_split
from calvin_eval.rollouts.datasets.drawing import NAMES, RendererPsnr, compare_images, renderers
from calvin_eval.rollouts.datasets.opening import open_dataset
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.render import RenderInfo


@dataclass(frozen=True, kw_only=True)
class DatasetReport:
    """What was found.

    Attributes:
        splits: what they hold.
        faults: what is wrong.
        images: comparisons with the renderers here, with the split's name.
        here: renderers that work here.
    """

    splits: Sequence[SplitFacts]
    faults: Sequence[Fault]
    images: Sequence[tuple[str, RendererPsnr]]
    here: Sequence[RenderInfo]

    @property
    def sound(self) -> bool:
        """Whether there is no error."""
        return not any(fault.level == "error" for fault in self.faults)

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "sound": self.sound,
            "splits": [asdict(facts) for facts in self.splits],
            "faults": [asdict(fault) for fault in self.faults],
            "images": [
                {"split": name, **asdict(c), "renderer": c.renderer, "nearest": c.nearest}
                for name, c in self.images
            ],
            "renderers": [info.as_dict() for info in self.here],
        }


def check_dataset(  # noqa: PLR0913 - what is looked at, and how much of it
    path: Path,
    *,
    assets: str = "builtin",
    scene: str | None = None,
    frames: int = 5000,
    images: int = 8,
    keys: Mapping[str, str] | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetReport:
    """Check a data set in CALVIN's format, or one split of it.

    Args:
        path: the folder.
        assets: the pack that its images are compared with.
        scene: what it shows, if the folder does not say so.
        frames: to look into, per split.
        images: frames to draw again, per scene; 0 for none.
        keys: names of features, see `open_dataset`.
        watch: called with the number of frames of a split that are done, and of all.

    Raises:
        UsageError: there is no data set, or no such scene.
    """
    if scene is not None and scene not in SCENES:
        raise UnknownNameError("scene", scene, SCENES)
    pack = load_pack(assets)
    facts, faults, comparisons = [], [], []
    for split in open_dataset(path, keys):
        found, wrong = check_split(split, frames, watch)
        facts.append(found)
        faults += wrong
        if images:
            made = compare_images(split, pack, images, scene)
            comparisons += [(split.name, one) for one in made]
            faults += [f for one in made for f in _judge(split.name, one, pack)]
            if not made and {"rgb_static", "scene_obs"} <= {*found.arrays}:
                message = "nobody knows which scene the frames show: name it by --scene"
                faults.append(_fault("warning", split.name, message))
    return DatasetReport(splits=facts, faults=faults, images=comparisons, here=renderers())


def _judge(split: str, one: RendererPsnr, pack: AssetPack) -> list[Fault]:
    if one.likely is not None:
        message = f"the frames are said to show scene {one.scene}, and look like {one.likely}"
        return [_fault("error", split, message)]
    if one.renderer is None:
        message = (
            f"no renderer here draws the images of scene {one.scene} with the {pack.name} assets: "
            "they were made with other assets, another version, or altered"
        )
        return [_fault("warning", split, message)]
    return []


def _fault(level: Any, split: str, message: str) -> Fault:
    return Fault(level=level, check="images", split=split, message=message)


def explain(one: RendererPsnr) -> str:
    """A comparison in a sentence."""
    if one.renderer is None and one.nearest is not None:
        return (
            f"most like {NAMES[one.nearest]}, but not drawn as here: by another driver or version, "
            f"or altered; --render {one.nearest} comes nearest"
        )
    if one.renderer is None:
        return "drawn by something else"
    maker = NAMES[one.renderer]
    choice = "tiny" if one.renderer == "tiny" else "egl or fast"
    (other,) = set(NAMES.values()) - {maker}
    return (
        f"drawn with {maker}: evaluate with --render {choice}; images by {other} differ visibly, "
        "and cost a policy trained on these much of its score"
    )
