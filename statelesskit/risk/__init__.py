"""What the step from one tree to another could do to the machines that take it, ranked."""

from statelesskit.risk.model import SEVERITIES, Risk
from statelesskit.risk.rank import risks

__all__ = ["SEVERITIES", "Risk", "risks"]
