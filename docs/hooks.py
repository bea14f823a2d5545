"""Pages of the site that stand outside of `docs/`, or that are not always there."""

import json
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
WIDE = {"migrating.md"}
"""Pages of wide tables."""
ROOMS = {
    "distribute": "Training in several processes: `lip.distribute`, see [Scaling](../scaling.md).",
    "optimizers": "Optimizers that know of the constraint: `lip.optimizers`.",
    "plots": "Every picture that the library draws, by matplotlib: `lip.plots`.",
    "zoo": "Small trained networks, with what is proven of them: `lip.zoo`.",
}
"""Rooms that have a page of the reference where they are, and how it begins."""


def on_config(config):
    """Adds to the navigation what is there, and is not listed in `mkdocs.yml`."""
    sections = {title: pages for entry in config.nav for title, pages in entry.items()}
    listed = str(config.nav)
    guides = [p for p in sorted((ROOT / "docs").glob("*.md")) if f"'{p.name}'" not in listed]
    sections["Guide"] += [{heading(p.read_text(encoding="utf-8")): p.name} for p in guides]
    sections["Reference"] += [{room: f"reference/{room}.md"} for room in rooms()]
    if found := notebooks():
        entries = [{title_of(path): f"notebooks/{path.name}"} for path in found]
        config.nav.insert(3, {"Notebooks": entries})
    return config


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files, config):
    """Adds the notebooks, which stand beside `docs/`, and pages of rooms."""
    for path in notebooks():
        # Found below the root: the plugin renders no file that is generated.
        place = config.site_dir, config.use_directory_urls
        files.append(File(f"notebooks/{path.name}", str(ROOT), *place))
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
    package = ROOT / "deel_lip_tf"
    return [r for r in ROOMS if (package / r).is_dir() or (package / f"{r}.py").exists()]


def notebooks():
    """The notebooks that can be rendered, in their order."""
    found = (ROOT / "notebooks").glob("*.ipynb")
    return sorted(found, key=lambda path: int(path.stem.partition("_")[0]))


def title_of(path):
    """The first heading of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return heading("\n".join("".join(cell["source"]) for cell in cells))


def heading(text):
    """The first heading of a page."""
    return next(line[2:] for line in text.splitlines() if line.startswith("# "))
