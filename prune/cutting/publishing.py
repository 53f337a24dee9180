"""A finished folder to the hub. The folder on this machine is whole before anything is sent, and stays."""

from __future__ import annotations

from pathlib import Path

from prune.common.errors import RegrowthError, UsageError, first_line


def check_can_publish(repo_id: str) -> None:
    """Find out before a long cut what would keep it from the hub: a name that is none, or no login.

    Raises:
        UsageError: either of these.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise UsageError(f"--push-to-hub {repo_id} is no hub id; use one such as owner/name") from None
    if get_token() is None:
        raise UsageError("--push-to-hub needs a login: run `hf auth login`, or set HF_TOKEN")


def publish(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Create the model repository `repo_id` unless it exists, upload all files of `folder`, and return its address.

    Raises:
        RegrowthError: the hub refuses or does not answer; the message says that the folder is whole.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from prune.checkpoint.downloading import transport_errors

    api = HfApi()
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Layers removed by prune cut")
    except (HfHubHTTPError, transport_errors(), OSError, ValueError, RuntimeError) as error:
        raise RegrowthError(f"{folder} is complete, but the hub did not take it as {repo_id} ({_why(error)})") from None
    return str(made)


def _why(error: BaseException) -> str:
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code is not None:
        return f"HTTP {code}" + ("; check your login and its rights" if code in (401, 403) else "")
    return first_line(error)
