"""Pages of the site that stand outside of `docs/`, or that are not always there."""

import json
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
GUIDES = {"recipes.md": "Recipes"}
"""Guides that are listed where they are."""
WIDE = {"migrating.md"}
"""Pages of wide tables."""
ROOMS = {"plots": "Every picture that the library draws, by matplotlib: `lip.plots`."}
"""Rooms that have a page of the reference where they are, and how it begins."""


def on_config(config):
    """Adds to the navigation what is there."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    sections["Guide"] += [
        {GUIDES[page]: page} for page in GUIDES if (ROOT / "docs" / page).exists()
    ]
    sections["Reference"] += [{room: f"reference/{room}.md"} for room in rooms()]
    if found := notebooks():
        entries = [{title_of(path): f"notebooks/{path.name}"} for path in found]
        config.nav.insert(3, {"Notebooks": entries})
    return config


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files, config):
    """Adds the notebooks, which stand beside `docs/`, and pages of rooms."""
    for path in notebooks():
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for room in rooms():
        text = f"# {room.capitalize()}\n\n{ROOMS[room]}\n\n::: deel_lip_tf.{room}\n"
        files.append(File.generated(config, f"reference/{room}.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Gives wide tables the place of the table of contents, which these pages begin with."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    return markdown


def rooms():
    """The rooms of `ROOMS` that the package has."""
    return [room for room in ROOMS if (ROOT / "deel_lip_tf" / room).is_dir()]


def notebooks():
    """The notebooks that can be rendered, in their order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def title_of(path):
    """The first heading of a notebook, or its name."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    return next((line[2:] for line in lines if line.startswith("# ")), path.stem)
