"""The convention check: does what stands between network and simulator fit the two?"""

from calvin_eval.wrappers.check.comparison import compare
from calvin_eval.wrappers.check.demonstrations import Demonstration, Pairs, ask
from calvin_eval.wrappers.check.finding import Finding
from calvin_eval.wrappers.check.statistics import examine

__all__ = ["Demonstration", "Finding", "Pairs", "ask", "compare", "examine"]
