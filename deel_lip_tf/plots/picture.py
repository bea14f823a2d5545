"""The figures of this library: matplotlib's, without pyplot and its global state."""

import io

from matplotlib.figure import Figure

_DPI = 90  # of what a notebook stores


class Picture(Figure):
    """A figure that a notebook shows as the value of a cell, whether or not pyplot is imported."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=_DPI, pil_kwargs={"optimize": True})
        return file.getvalue()
