"""Pushing a run's policy to the Hugging Face hub: one commit, with its card and record."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from json import JSONDecodeError
from pathlib import Path, PurePath

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import HfHubHTTPError
from pydantic import JsonValue

from tasks.gdsd import transient
from tasks.gdsd.config import written
from tasks.gdsd.config.at_home import public
from tasks.gdsd.config.model_source import BASE, OPTIMIZER
from tasks.gdsd.config.publish import HubConfig
from tasks.gdsd.denoiser.checkpoint_record import BESIDE, RECORD, read_record, require_whole
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.files import SUMS, digest, listed, sums
from tasks.gdsd.report import model_card

# What is read of a policy's folder wherever it is there: by our loader, and by the libraries of others.
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", BASE, "adapter/*", "adapter_config.json")
TEXT = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*")
READ = (*WEIGHTS, *TEXT, "additional_chat_templates/*", "generation_config.json")
ADAPTER, HOME = "adapter/adapter_config.json", "base_model_name_or_path"


def push(folder: Path, config: HubConfig, token: str) -> str:
    """Commits a run's policy to its repository, which is made if it is not there; returns the commit's address.

    Files that an earlier push has left there and this policy does not have are removed. Pushed again, nothing changes.
    `SHA256SUMS` has the digests of all that is pushed, and tells the next push what is its own.

    Args:
        folder: of the run. The optimizer's state stays here; training goes on from the weights without it. So does what
            has problems and answers in it, since their licences may not allow more, and what `public` leaves out.

    Raises:
        CheckpointError: the folder has no policy, or a damaged one.
        PublishError: the hub refuses, or the repository is public or has files of somebody else, and the configuration
            does not say that this is meant.
        UnreachableError: the hub does not answer, or has a fault of its own.
    """
    policy = folder / "policy"
    record = read_record(policy)
    require_whole(policy, moments=False)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="push-") as place, _told(config.repo):
        files = _files(folder, Path(place), config.repo)
        api.create_repo(config.repo, private=config.private, exist_ok=True)
        there = api.repo_info(config.repo)
        if config.private and not there.private:
            raise PublishError(
                f"{config.repo} is there and public, so everybody could read the policy; set publish.hub.private to "
                "false if that is meant, or choose another repo"
            )
        stale = _replaceable(api, config, files, Path(place))
        commit = api.create_commit(
            config.repo,
            [
                *(CommitOperationAdd(name, path) for name, path in sorted(files.items())),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Policy after {record.round} rounds",
            commit_description=f"SHA-256 of the checkpoint: {digest(policy)}",
            parent_commit=there.sha,  # else what somebody has put there meanwhile would be replaced unseen
        )
    return str(commit.commit_url)


def _files(folder: Path, place: Path, repo: str) -> dict[str, Path]:
    """Returns what is pushed, by its name there; what others read in another form is written anew.

    Args:
        place: an empty folder.
    """
    policy = folder / "policy"
    files = {path.relative_to(policy).as_posix(): path for path in policy.rglob("*") if path.is_file()}
    for name in (OPTIMIZER, SUMS):
        files.pop(name, None)
    files |= {name: folder / name for name in BESIDE}
    run = json.loads(files["run.json"].read_text("utf-8"))
    anew = {
        "README.md": model_card.on_hub(files["README.md"].read_text("utf-8"), repo),
        "run.json": _json(public(run)),
        "config.yaml": written.write(public(run["config"])),
    }
    if BASE in files:
        anew[BASE] = _json(public(json.loads(files[BASE].read_text("utf-8"))))
    if ADAPTER in files:
        adapter = json.loads(files[ADAPTER].read_text("utf-8"))
        if adapter["revision"] is None:  # a folder
            adapter[HOME] = PurePath(adapter[HOME]).name
        anew[ADAPTER] = _json(adapter)
    for name, text in anew.items():
        files[name] = place / "pushed" / name
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(text, "utf-8")
    sealed = place / "pushed" / SUMS
    sealed.write_text(sums(files))
    return files | {SUMS: sealed}


def _json(value: JsonValue) -> str:
    return json.dumps(value, indent=2) + "\n"


def _replaceable(api: HfApi, config: HubConfig, files: Mapping[str, Path], place: Path) -> list[str]:
    """Returns the names of the files there that have to go.

    Raises:
        PublishError: a file that is in the way was not left by an earlier push, or was changed since.
    """
    repo = config.repo
    there = {entry.path: entry for entry in api.list_repo_tree(repo, recursive=True) if isinstance(entry, RepoFile)}

    def fetch(name: str) -> Path:
        return Path(api.hf_hub_download(repo, name, local_dir=place / "there"))

    def content(name: str) -> str:
        lfs = there[name].lfs
        return digest(fetch(name)) if lfs is None else lfs.sha256

    earlier: dict[str, str] = {}
    if SUMS in there and there[SUMS].lfs is None:  # ours is small
        earlier = listed(fetch(SUMS).read_text(errors="replace")) or {}
    if RECORD not in earlier:  # others have a file of this name too
        earlier = {}
    replaced = [name for name in files if name in there and not (name == SUMS and earlier)]
    gone = [name for name in there if name not in files]
    gone = [name for name in gone if name in earlier or _is_read(name)]
    if config.overwrite:
        return gone
    found = {name: content(name) for name in (*replaced, *gone)}
    foreign = [name for name in replaced if found[name] not in (earlier.get(name), digest(files[name]))]
    foreign += [name for name in gone if found[name] != earlier.get(name)]
    if foreign:
        raise PublishError(
            f"{repo} has {', '.join(sorted(foreign))}, which no push of this pipeline has left there as it is. The "
            "policy has files of these names, or would not be loaded right beside them. Set publish.hub.overwrite to "
            "true to replace or remove them, or choose another repo"
        )
    return gone


def _is_read(name: str) -> bool:
    return any(fnmatch(name, kind) and name.count("/") == kind.count("/") for kind in READ)


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
