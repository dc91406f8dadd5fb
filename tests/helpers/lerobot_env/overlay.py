"""Lay the environment that runs this over another one: `python overlay.py SITE_PACKAGES`."""

import shutil
import sys
import sysconfig
from pathlib import Path

ours = Path(sysconfig.get_path("purelib"))
shutil.copy(Path(__file__).with_name("torchvision_on_cpu.py"), ours)
(ours / "overlay.pth").write_text(
    f"import site; site.addsitedir({sys.argv[1]!r})\nimport torchvision_on_cpu\n"
)
