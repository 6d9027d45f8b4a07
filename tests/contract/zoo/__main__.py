"""``python -m tests.contract.zoo`` writes the tables of `docs/reference/support.md` anew."""

import warnings

from . import ZOO
from .table import write
from .tracing import traced

warnings.simplefilter("ignore")
write([traced(entry) for entry in ZOO.values()])
