"""Upload a run or checkpoint to the Hub: its weights, code, card and figures, and nothing of the machine."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

from ..export.runtime import FACTS, MANIFEST, is_export
from ..runs.history import read_mapping
from ..runs.names import (
    CONFIG_JSON,
    ENVIRONMENT_JSON,
    EVALUATION_JSONL,
    PLOTS,
    PREPROCESSOR_JSON,
    RECIPE_YAML,
    SOURCE_JSON,
)
from ..runs.record import read_record
from .cards import BESIDE, CARD, is_edited, make_card

logger = logging.get_logger(__name__)

_CONFIGS = (CONFIG_JSON, PREPROCESSOR_JSON)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def push_run(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    tag: str | None = None,
    token: str | None = None,
    license: str | None = None,
) -> str:
    """
    Upload a run, or one of its checkpoints, in one commit; what the Hub has already is not sent again.

    The card is written anew with `repo_id` in its usage, unless the folder's was edited: then that is uploaded. A card
    that was edited on the Hub stays, and the new one goes beside it, with a warning.

    Args:
        folder: has `config.json`, `model.safetensors` (or its shards) and `preprocessor_config.json`.
        repo_id: `name/of-repository`; it is made if there is none. Without a name: one's own.
        private: make it private; None: as the Hub does by default. One that exists keeps what it is.
        tag: name for the revision this makes.
        token: of the Hub; None: that of `hf auth login`, or `HF_TOKEN`.
        license: see `write_card`.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: if the folder holds no weights.
        ValueError: if the repository is public though `private` was asked for, the tag names another revision, or the
            Hub does not take a name or the card.
        PermissionError: if the Hub does not let this user write there.
        ConnectionError: if it cannot be reached, or the upload breaks off; pushing again goes on from there.
    """
    files = _files(Path(folder))
    api = HfApi(token=token)
    repo_id = open_repository(api, repo_id, private)
    with said_plainly(repo_id):
        there = set(api.list_repo_files(repo_id))
        edited_there = CARD in there and _is_edited_there(api, repo_id)
    card = Path(folder) / CARD
    if is_edited(card):
        files[CARD] = card
    else:
        files[BESIDE if edited_there else CARD] = make_card(folder, repo_id, license).encode()
        if edited_there:
            logger.warning(f"{repo_id}: {CARD} was edited there and stays as it is; the new card is {BESIDE}")
    operations = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    # other shards, which loading might take for these weights
    stale = sorted(name for name in there - set(files) if _WEIGHTS.fullmatch(name))
    operations += [CommitOperationDelete(name) for name in stale]
    with said_plainly(repo_id):
        commit = api.create_commit(repo_id, operations, commit_message=_message(Path(folder)))
        if tag is not None:
            _put_tag(api, repo_id, tag, commit.oid)
    return commit.commit_url


def open_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    """Make the repository if there is none. Returns its whole name; raises as `push_run` does."""
    with said_plainly(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"{repo_id} exists and is public: nothing was uploaded; make it private in its settings, or choose "
                "another name"
            )
    return repo_id


def checkpoint_files(folder: Path) -> list[Path]:
    """
    Configuration, weights and code of a checkpoint: what loading it needs, and no training state.

    Raises:
        FileNotFoundError: if there are no weights.
    """
    weights = _export_files(folder) if is_export(folder) else []
    if not weights and folder.is_dir():
        weights = sorted(path for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name))
    if not weights or not (folder / CONFIG_JSON).is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json and model.safetensors: a run leaves them when it ends; a checkpoint-<step> "
            "of it can be pushed before"
        )
    configs = [folder / name for name in _CONFIGS if (folder / name).exists()]
    code = set()
    for path in configs:
        for reference in json.loads(path.read_text(encoding="utf-8")).get("auto_map", {}).values():
            module = folder / f"{reference.split('.')[0]}.py"
            code |= {module, *map(Path, get_relative_import_files(module))}
    return configs + weights + sorted(code)


def _export_files(folder: Path) -> list[Path]:
    """Return an export's graph, what lies beside it, and what is said of it."""
    file = Path(read_mapping(folder / MANIFEST)["components"]["model"]["file"])
    return [folder / MANIFEST, folder / FACTS, *sorted(folder.glob(f"{file.stem}.*"))]


def _files(folder: Path) -> dict[str, Path | bytes]:
    """Return what is uploaded besides the card, by its name there."""
    files: dict[str, Path | bytes] = {path.name: path for path in checkpoint_files(folder)}
    for name in (EVALUATION_JSONL, ENVIRONMENT_JSON, SOURCE_JSON):
        if (folder / name).exists():
            files[name] = folder / name
    files |= {f"{PLOTS}/{path.name}": path for path in (folder / PLOTS).glob("*.png")}
    recipe = read_record(folder).recipe
    if recipe:
        files[RECIPE_YAML] = yaml.safe_dump(recipe).encode()
    return files


def _message(folder: Path) -> str:
    figures = read_record(folder).figures
    step = f" of step {figures['step']}" if "step" in figures else ""
    return f"Weights{step}" + (f", AP {figures['AP']:.3f}" if figures else "")


def _is_edited_there(api: HfApi, repo_id: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return is_edited(Path(api.hf_hub_download(repo_id, CARD, local_dir=folder)))


def _put_tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    tags = {each.name: each.target_commit for each in api.list_repo_refs(repo_id).tags}
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit)
    elif tags[tag] != commit:
        raise ValueError(
            f"{repo_id}: the files are uploaded, but {tag} names another revision already ({tags[tag][:7]}): choose "
            "another tag"
        )


@contextmanager
def said_plainly(repo_id: str) -> Iterator[None]:
    """Raise faults of the Hub in one line each; they come from several libraries, as many kinds of error."""
    try:
        yield
    except HfHubHTTPError as fault:
        status, said = fault.response.status_code, fault.server_message or str(fault)
        said = f"{repo_id}: the Hub answers {status}, {' '.join(said.split())}"
        if status in (401, 403, 404):
            raise PermissionError(f"{said} (log in with `hf auth login`, with a token that may write there)") from fault
        if 400 <= status < 500 and status not in (408, 429):
            raise ValueError(said) from fault
        raise ConnectionError(f"{said}; pushing again goes on from there") from fault
    except Exception as fault:
        # a download that fails says that the file is not here; hf_xet, which uploads large files, says these two
        of_the_network = (LocalEntryNotFoundError, ConnectionError, TimeoutError)
        if isinstance(fault, (ValueError, OSError)) and not isinstance(fault, of_the_network):
            raise
        cause = fault.__cause__ or fault
        raise ConnectionError(
            f"{repo_id}: the Hub cannot be reached, or the upload broke off ({type(cause).__name__}: "
            f"{' '.join(str(cause).split())}); pushing again goes on from there"
        ) from fault
