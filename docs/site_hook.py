"""
Hooks of mkdocs: what a page links to outside of docs/ goes along with the site.

Links such as `../../benchmarks/RESULTS.md` are right in a clone and on GitHub. In the site the file is under
`repository/`: a page if it is Markdown, else the file itself. `repository/` mirrors the repository, so links between
such files hold, too.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)")


def on_files(files, config):
    """Add the linked files to the site, and what those link to."""
    waiting = [page for page in files if page.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        place, text = _place(page.src_uri), Path(page.abs_src_path).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s#:]+)", text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
            uri = f"repository/{target}"
            if target.startswith("docs/") or not (ROOT / target).is_file() or files.get_file_from_path(uri):
                continue
            added = File.generated(config, uri, abs_src_path=str(ROOT / target))
            files.append(added)
            if target.endswith(".md"):
                waiting.append(added)
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links that leave docs/, or lead back into it, at where their targets are in the site."""
    uri = page.file.src_uri
    folder = posixpath.dirname(_place(uri))

    def moved(match):
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        inside = target.removeprefix("docs/") if target.startswith("docs/") else f"repository/{target}"
        return match[1] + posixpath.relpath(inside, posixpath.dirname(uri) or ".")

    return LINK.sub(moved, markdown)


def on_page_content(html, page, config, files):
    """Show transformers' types of arguments, which are Markdown (`int`, *optional*), as plain code."""
    return re.sub(r"<code>[^<]*`[^<]*</code>", lambda code: re.sub(r"[`*]", "", code[0]), html)


def _place(uri: str) -> str:
    """Return a file's path in the repository."""
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"
