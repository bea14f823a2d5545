"""How the reference reads docstrings: an `Example:` is code, and sources are links.

What stands at the top of modules is for those who read the code: pages of rooms begin otherwise.
"""

import re

import griffe

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


class Sections(griffe.Extension):
    """Writes docstrings as griffe's parser expects them."""

    def on_object(self, *, obj, **kwargs):
        """Called once for each object that was read."""
        if obj.is_module:
            obj.docstring = None
        elif obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
