"""Progress bars on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ..progress import OnProgress, Progress

FORMAT = "{desc} {percentage:3.0f}% |{bar}| {elapsed}{postfix}"


@contextmanager
def quantization_bar(description: str) -> Iterator[OnProgress]:
    """A bar over the work of encoding, with the time left; gives the callback that moves it."""
    with tqdm(desc=description, total=1, bar_format=FORMAT, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_postfix_str(_state(progress), refresh=False)
            bar.update(progress.done - bar.n)

        yield show


def _state(progress: Progress) -> str:
    if progress.seconds_left is None:
        return progress.layer
    left = tqdm.format_interval(round(progress.seconds_left))
    return f"{left} left, {progress.layer}"
