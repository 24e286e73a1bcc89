"""Upload a Space: a page that the Hub runs."""

from pathlib import Path

from huggingface_hub import HfApi

from .push import said_plainly

SDK = "gradio"


def is_space(folder: str | Path) -> bool:
    """Tell whether a folder is a Space of Gradio, as `dino-detr demo --space` writes it."""
    card = Path(folder) / "README.md"
    if not (Path(folder) / "app.py").is_file() or not card.is_file():
        return False
    return f"\nsdk: {SDK}\n" in card.read_text(encoding="utf-8", errors="replace")


def push_space(folder: str | Path, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """
    Upload a Space in one commit; what the Hub has already is not sent again.

    Args:
        folder: of `is_space`.
        repo_id, private, token: see `push_run`.

    Returns:
        The address of the commit.

    Raises:
        ValueError, PermissionError, ConnectionError: see `push_run`.
    """
    api = HfApi(token=token)
    with said_plainly(repo_id):
        made = api.create_repo(repo_id, repo_type="space", space_sdk=SDK, private=private, exist_ok=True)
        if private and not api.repo_info(made.repo_id, repo_type="space").private:
            raise ValueError(f"{repo_id} exists and is public: nothing was uploaded; choose another name")
        commit = api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, repo_type="space", commit_message="A page to try the detector"
        )
    return commit.commit_url
