"""A bar per run, in place of the pipeline's own: which side, which run, which step."""

from __future__ import annotations

from tqdm import tqdm


class Progress:
    """shown: False keeps the terminal quiet. recorder: told when the loop over the steps begins and ends."""

    def __init__(self, title: str, shown: bool, recorder=None):
        self._title, self._shown, self.recorder = title, shown, recorder
        self._open: list[tqdm] = []

    def bar(self, iterable=None, total=None) -> tqdm:
        """What ``pipe.progress_bar(...)`` returns."""
        recorder = self.recorder

        class Bar(tqdm):
            def close(self):
                super().close()
                if recorder is not None and recorder.stage == "steps":
                    recorder.loop_ends()

        made = Bar(iterable, total=total, desc=self._title, disable=not self._shown)
        self._open.append(made)
        if recorder is not None:
            recorder.loop_begins()
        return made

    def close(self) -> None:
        """Close bars that an error left open."""
        for made in self._open:
            made.close()
