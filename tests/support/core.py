"""A processor and a frame, as far as the core looks at them: for its tests, and for measuring it."""

from dataclasses import dataclass, field
from itertools import count

_ids = count(1)


@dataclass(eq=False)
class Processor:
    name: str
    id: int = field(default_factory=lambda: next(_ids))


@dataclass  # unhashable, as pipecat's frames are, and equal to its copy
class Frame:
    id: int = 0
