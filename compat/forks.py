"""A process forked after MindSpore (2.7 … 2.10) began to compute has none of its threads: what it asks MindSpore for
never returns. So whoever asks is told at once."""

from __future__ import annotations

import os

from ..errors import Forked

_began = _lost = False


def began() -> None:
    """MindSpore computes in this process from now on."""
    global _began
    _began = True


def check() -> None:
    """Raises Forked where MindSpore can compute nothing."""
    if _lost:
        raise Forked(
            "this process was forked after MindSpore began to compute, whose threads did not come along. Start it by "
            "spawn or forkserver (multiprocessing.get_context('spawn'), DataLoader(multiprocessing_context='spawn'), "
            "gunicorn without --preload), or fork before the first call of a component; "
            "`with ms_controlnet_backend.using('torch'):` computes here on torch"
        )


def _after_fork() -> None:
    global _lost
    _lost = _lost or _began


os.register_at_fork(after_in_child=_after_fork)
