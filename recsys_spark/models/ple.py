"""PLE: experts of each label beside experts that all share, in levels, so that labels at odds do not harm each other.

Tang et al. 2020, "Progressive layered extraction (PLE): a novel multi-task learning model for personalized
recommendations".
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from recsys_spark.models import multitask
from recsys_spark.models.features import Features
from recsys_spark.models.multitask import MultiTaskConfig, MultiTaskNetwork, experts, mix

SHARES = multitask.FILES


class Config(MultiTaskConfig):
    """Sizes of PLE."""

    own: int = Field(2, ge=1)
    """Experts of each label, in each level."""
    shared: int = Field(2, ge=1)
    """Experts that all labels share, in each level."""
    levels: int = Field(2, ge=1)
    """Levels of experts."""


class Network(MultiTaskNetwork):
    """A label's tower reads its own path through the levels."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__(config, features)
        widths = [self.width, *[config.hidden[-1]] * (config.levels - 1)]
        self.levels = nn.ModuleList(
            Level(width, config, last=level == config.levels - 1) for level, width in enumerate(widths)
        )

    def mixtures(self, x: Tensor) -> list[Tensor]:
        paths = [x] * (len(self.config.labels) + 1)
        for level in self.levels:
            paths = level(paths)
        return paths


class Level(nn.Module):
    """From a path for each of T labels and, last, the shared one to the same; after the last level nobody shares."""

    def __init__(self, width: int, config: Config, last: bool) -> None:
        super().__init__()
        heard = config.own + config.shared
        self.own = experts(config.own * len(config.labels), width, config)  # those of the first label come first
        self.shared = experts(config.shared, width, config)
        self.gates = nn.ModuleList(nn.Linear(width, heard, bias=False) for _ in config.labels)
        everyone = config.own * len(config.labels) + config.shared
        self.shared_gate = None if last else nn.Linear(width, everyone, bias=False)

    def forward(self, paths: list[Tensor]) -> list[Tensor]:
        """Return [B, E] for each label, and the shared path unless it is the last level, of [B, width] each."""
        *tasks, common = paths
        shared = [expert(common) for expert in self.shared]
        n = len(self.own) // len(tasks)
        own = [[expert(x) for expert in self.own[t * n : (t + 1) * n]] for t, x in enumerate(tasks)]
        mixed = [mix(gate, x, of + shared) for gate, x, of in zip(self.gates, tasks, own, strict=True)]
        if self.shared_gate is None:
            return mixed
        return [*mixed, mix(self.shared_gate, common, [opinion for of in own for opinion in of] + shared)]
