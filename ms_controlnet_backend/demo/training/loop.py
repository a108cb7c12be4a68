"""One training run: optimizer, averaged weights, log, saving and going on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

EVERY = 50
"""steps between lines of the log"""
SAVE = 500
"""steps between saves"""


class Run:
    """Trains ``modules`` for ``steps``; :attr:`averaged` holds the exponential moving average of their weights.

    Each step draws from a generator seeded by its number: a run that was broken off goes on with what it would have
    seen.
    """

    def __init__(self, folder: Path, name: str, modules: torch.nn.ModuleDict, *, steps: int, rate: float, decay: float):
        self.name, self.modules, self.steps = name, modules, steps
        self.log, self._file = folder / f"{name}.jsonl", folder / f"{name}.pt"
        self._averaged = AveragedModel(modules, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._optimizer = torch.optim.AdamW(modules.parameters(), lr=rate, weight_decay=1e-4)
        warm = min(200, steps // 10 + 1)
        self._rates = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / warm, 0.02 + 0.98 * (1 + math.cos(math.pi * min(step / steps, 1))) / 2),
        )
        self.step = 0
        if self._file.exists():
            self._load()

    @property
    def averaged(self) -> torch.nn.ModuleDict:
        return self._averaged.module

    def train(self, losses: Callable[[int, torch.Generator], dict[str, torch.Tensor]], sample: Callable[[int], None]):
        """losses: step and generator → named parts of the loss, their sum is minimised. sample: called at each save."""
        self.modules.train()
        bar = tqdm(total=self.steps, initial=self.step, desc=self.name)
        sums: dict[str, list[float]] = {}
        while self.step < self.steps:
            parts = losses(self.step, torch.Generator().manual_seed(self.step))
            self._optimizer.zero_grad(set_to_none=True)
            sum(parts.values()).backward()
            torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            self._optimizer.step()
            self._rates.step()
            self._averaged.update_parameters(self.modules)
            self.step += 1
            bar.update()
            for key, value in parts.items():
                sums.setdefault(key, []).append(value.item())
            if self.step % EVERY == 0 or self.step == self.steps:
                line = {"step": self.step} | {k: round(sum(v) / len(v), 5) for k, v in sums.items()}
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                sums.clear()
            if self.step % SAVE == 0 or self.step == self.steps:
                self._save()
                sample(self.step)

    def _states(self):
        return {
            "modules": self.modules, "averaged": self._averaged, "optimizer": self._optimizer, "rates": self._rates,
        }  # fmt: skip

    def _save(self):
        state = {key: part.state_dict() for key, part in self._states().items()} | {"step": self.step}
        new = self._file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._file)

    def _load(self):
        state = torch.load(self._file, weights_only=True)
        for key, part in self._states().items():
            part.load_state_dict(state[key])
        self.step = state["step"]
