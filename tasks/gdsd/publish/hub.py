"""Pushing a run's policy to the Hugging Face hub: one commit, with its card and record."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from tasks.gdsd import transient
from tasks.gdsd.config.publish import HubConfig
from tasks.gdsd.denoiser.checkpoint_record import OPTIMIZER, read_record
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.files import SUMS, digest

# Of a run's folder; what has problems and answers in it stays here, since their licences may not allow more.
BESIDE = ("README.md", "config.yaml", "metrics.jsonl", "run.json")
OURS = ("model*.safetensors", "model.safetensors.index.json", "base.json", "adapter/*", SUMS)  # of an earlier policy


def push(folder: Path, config: HubConfig, token: str) -> str:
    """Commits a run's policy to its repository, which is made if it is not there; returns the commit's address.

    Files of an earlier policy that this one does not have are removed. Pushed again, nothing changes.

    Args:
        folder: of the run. The optimizer's state is left out; training goes on from the weights without it.

    Raises:
        CheckpointError: the folder has no policy.
        PublishError: the hub refuses.
        UnreachableError: the hub does not answer, or has a fault of its own.
    """
    policy = folder / "policy"
    record = read_record(policy)
    files = {path.relative_to(policy).as_posix(): path for path in policy.rglob("*") if path.is_file()}
    files.pop(OPTIMIZER, None)
    files |= {name: folder / name for name in BESIDE}
    api = HfApi(token=token)
    with _told(config.repo):
        api.create_repo(config.repo, private=config.private, exist_ok=True)
        there = api.list_repo_files(config.repo)
        stale = [name for name in there if name not in files and any(fnmatch(name, kind) for kind in OURS)]
        commit = api.create_commit(
            config.repo,
            [
                *(CommitOperationAdd(name, path) for name, path in sorted(files.items())),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Policy after {record.round} rounds",
            commit_description=f"SHA-256 of the checkpoint: {digest(policy)}",
        )
    return str(commit.commit_url)


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turns what the hub's library raises into what a person can act on."""
    try:
        yield
    except HfHubHTTPError as error:
        status, said = error.response.status_code, error.server_message or str(error).splitlines()[0]
        if status in (401, 403):
            raise PublishError(
                f"the hub does not let this token write to {repo} ({status}: {said}); set HF_TOKEN, or on a cluster "
                "the secret hf_token, to one that may write there"
            ) from error
        if status in (408, 409, 412, 429) or status >= 500:
            raise UnreachableError(f"the hub did not take {repo} ({status}: {said})") from error
        raise PublishError(f"the hub refuses {repo} ({status}: {said})") from error
    except JSONDecodeError as error:
        raise UnreachableError(f"the hub did not take {repo}: what it said is no JSON") from error
    except Exception as error:  # its transport has errors of its own
        if transient.may_pass(error):
            raise UnreachableError(f"the hub was not reached for {repo} ({error})") from error
        raise
