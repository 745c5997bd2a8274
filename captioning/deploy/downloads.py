"""A model from wherever it is: a path, the name of a shipped model, https://..., or hf://owner/name[/file].

    photos                                                   checkpoints/photos.safetensors, beside the scripts, or
                                                             photos_int8.onnx where torch is not installed
    https://host/model.safetensors#sha256=<64 hex digits>    the hash is checked if it is given
    hf://owner/name                                          model.safetensors of a Hugging Face repository, or
                                                             model.onnx where torch is not installed
    hf://owner/name/model_int8.onnx                          another of its files

What was downloaded stays in the cache, $CAPTIONING_CACHE or ~/.cache/captioning, and is not asked for again. A file
stands there under its name when it is complete and checked; until then it is called .part, and the next call goes on
where it ended. It is complete when its format says so, whatever the server says. Plain http:// is allowed for this
machine alone (127.0.0.1).
"""

import contextlib
import difflib
import errno
import hashlib
import importlib.util
import os
import queue
import re
import ssl
import string
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

from captioning.cli import UnavailableError, one_line
from captioning.files import resolved
from captioning.model_files import MAX_FILE_BYTES, MAX_ONNX_BYTES, check_onnx, check_safetensors
from captioning.untrusted import on_one_line

SUFFIXES = (".safetensors", ".onnx")
CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
SHIPPED = ("photos", "aerial", "pictograms")  # their files are CHECKPOINTS/<name><form>, of each form
FORMS = (".safetensors", "_int8.onnx")
MAX_BYTES = MAX_FILE_BYTES
ATTEMPTS = 3  # connections, before a download gives up until the next call
TIMEOUT = 30  # seconds without a byte, or of a connection below LEAST_SPEED
LEAST_SPEED = 1000  # bytes a second on average
MAX_SECONDS = 3600  # of a download in all
CHUNK = 2**18  # bytes
TRY_AGAIN = (408, 425, 429)  # answers of a server that is only busy, besides 500 and above
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch_model(source):
    """Return the Path of a model: `source` itself if it is a path, that of a shipped model, or what was downloaded.

    A relative path of a shipped file, as checkpoints/photos.safetensors, is found from any working directory.
    Raises ValueError, one line naming `source`, if it cannot be had or is not what it should be.
    """
    source = os.fspath(source)
    scheme, separator, rest = source.partition("://")
    if not separator:
        return find_file(source)
    if scheme == "hf":
        return fetch_from_hub(source, rest)
    if scheme not in ("https", "http"):
        raise ValueError(f"{source}: allowed are a path, https:// and hf://")
    return fetch_url(source)


def find_file(source):
    """Return the Path of a file or of a shipped model.

    Raises ValueError for a bare name that is neither, a folder, and what training goes on from, naming the model meant.
    """
    path = Path(source)
    if path.is_file() and path.name.endswith("_last.pt"):
        model = path.with_name(path.stem.removesuffix("_last") + FORMS[0])
        told = f"; the model is {model}" if model.is_file() else ""
        raise ValueError(f"{source}: is what --train.resume goes on from, no model{told}")
    if path.is_file():
        return path
    if source in SHIPPED:  # also where a folder of pictures has this name
        return CHECKPOINTS / f"{source}{FORMS[0] if importlib.util.find_spec('torch') else FORMS[1]}"
    if path.parent == Path(CHECKPOINTS.name) and path.name in {name + form for name in SHIPPED for form in FORMS}:
        return CHECKPOINTS / path.name
    if path.is_dir():
        models = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        told = f"the models in it are {', '.join(models[:5])}" if models else "there is no model in it"
        raise ValueError(f"{source}: is a folder, a model is a file; {told}")
    if re.fullmatch(r"[\w-]+", source):
        (nearest,) = difflib.get_close_matches(source, SHIPPED, n=1, cutoff=0)
        raise ValueError(
            f"{source}: no such file, and no shipped model has this name; did you mean {nearest}? "
            f"(shipped are {', '.join(SHIPPED)})"
        )
    return path


def fetch_from_hub(source, name):
    """Return the Path of a file of a Hugging Face repository, in the cache of huggingface_hub."""
    owner, repository, *inside = name.split("/", 2) if "/" in name else (name, "")
    if not owner or not repository:
        raise ValueError(f"{source}: must be hf://owner/name or hf://owner/name/file")
    suffix = ".safetensors" if importlib.util.find_spec("torch") else ".onnx"
    file = inside[0] if inside and inside[0] else f"model{suffix}"
    check_suffix(source, file)
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ModuleNotFoundError:
        raise ValueError(f"{source}: needs huggingface_hub (pip install huggingface_hub)") from None
    size = 0
    with contextlib.suppress(Exception):  # without a network the file may be in the cache; what is wrong is told below
        address = hf_hub_url(f"{owner}/{repository}", file)
        size = within(TIMEOUT, get_hf_file_metadata, address).size or 0
    if size > MAX_BYTES:
        raise ValueError(f"{source}: {file} has {size} bytes, at most {MAX_BYTES} are read")
    try:
        path = Path(within(MAX_SECONDS, hf_hub_download, f"{owner}/{repository}", file))
    except Exception as error:  # it raises classes of its own, of httpx, OSError and ValueError
        raise ValueError(f"{source}: {file} cannot be had ({one_line(error, 200)})") from None
    try:
        check_model(path)
    except ValueError as error:
        drop(path)
        raise ValueError(f"{source}: what came is not a whole model ({reason_of(error, path)}); dropped") from None
    return path


def within(seconds, function, *arguments):
    """Return what a function returns, or raise what it raises; TimeoutError if it takes longer than `seconds`.

    It runs in a thread that is left alone then: no library can be stopped while a server keeps it waiting.
    """
    answers = queue.SimpleQueue()

    def work():
        try:
            answers.put((function(*arguments), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, error = answers.get(timeout=max(0, seconds))
    except queue.Empty:
        raise TimeoutError(f"not complete after {seconds:.0f} seconds") from None
    if error:
        try:
            raise error
        finally:
            del error  # its traceback holds this frame, which would hold it, and its connection, until a collection
    return answer


def check_model(path):
    """Raise ValueError unless a file is whole, as its format tells, and of a bearable size."""
    if "".join(path.suffixes).endswith((".onnx", ".onnx.part")):
        if path.stat().st_size > MAX_ONNX_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {MAX_ONNX_BYTES} are read")
        check_onnx(path, path.read_bytes())
    else:
        check_safetensors(path)


def reason_of(error, path):
    """Return the message of an error about a file without the file's name."""
    return one_line(error, 200).removeprefix(f"{path}: ")


@contextlib.contextmanager
def loading(path):
    """Drop a downloaded file from its cache, and say so, if the block raises ValueError: it cannot be loaded.

    An UnavailableError says nothing against the file, which stays.
    """
    try:
        yield
    except UnavailableError:
        raise
    except ValueError as error:
        if not is_cached(path):
            raise
        drop(path)
        raise ValueError(f"{error}; it had been downloaded, and is dropped: the next call downloads it anew") from None


def is_cached(path):
    """True for a file in the cache of downloads, or in that of huggingface_hub."""
    caches = []
    with contextlib.suppress(ValueError):  # a user without a home, who has downloaded nothing
        caches.append(cache_folder())
    if "huggingface_hub" in sys.modules:
        from huggingface_hub.constants import HF_HUB_CACHE

        caches.append(Path(HF_HUB_CACHE))
    return any(resolved(cache) in resolved(path).parents for cache in caches)


def drop(path):
    """Remove a file of a cache; where it is a link, as in that of huggingface_hub, what it leads to as well."""
    with contextlib.suppress(OSError):
        resolved(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def fetch_url(source):
    """Return the Path of a file in the cache, downloaded if it is not there yet."""
    check_address(source)
    url, _, fragment = source.partition("#")
    digest = fragment.removeprefix("sha256=").lower()
    if fragment and not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{source}: after # must stand sha256= and 64 hex digits")
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    check_suffix(source, name)
    # Another address or another hash is another file.
    path = cache_folder() / hashlib.sha256(source.encode()).hexdigest()[:16] / re.sub(r"[^\w.-]", "_", name)
    if path.is_file():
        return path
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with one_process(part):
        if path.is_file():  # another process has just had it
            return path
        try:
            download(source, part)
            check_content(source, part, digest)
        except ServerRefusesError:  # today, or to this machine: what has come may still be right
            if not part.stat().st_size:
                part.unlink()
            raise
        except ValueError as error:  # what is there will never be right
            part.unlink(missing_ok=True)
            if str(error).startswith(source):
                raise
            raise ValueError(f"{source}: {one_line(error, 200)}") from None  # of the address that it led to
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise ValueError(f"{part}: {error.strerror}; make room and call again to go on") from None
            if isinstance(error, urllib.error.HTTPError):
                raise ValueError(f"{source}: {answer_of(error)}; call again later to go on") from None
            reason = on_one_line(str(getattr(error, "reason", "") or error))[:200]
            raise ValueError(f"{source}: the download was cut ({reason}); call again to go on") from None
        os.replace(part, path)
    return path


def answer_of(error):
    """Return what an HTTPError says: the server answers 503 Service Unavailable."""
    return f"the server answers {error.code} {one_line(error.reason, 80)}"


class ServerRefusesError(ValueError):
    """The server answers that it will not give the file."""


@contextlib.contextmanager
def one_process(part):
    """Hold the file `part` for this process, and wait for one that holds it; where the system has no such locks, go on.

    Two at once would write over each other's pieces.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    with open(part, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def download(source, part):
    """Write what an address gives to the file `part`, connecting again a few times where it is cut.

    Raises ServerRefusesError if the server refuses, ValueError if it sends too much, OSError or HTTPException if the
    disk is full or the connection was cut once too often; what has come by then stays in `part`.
    """
    url = urllib.parse.quote(source.partition("#")[0], safe=string.punctuation)  # spaces and letters beyond ASCII
    deadline = time.monotonic() + MAX_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return within(deadline - time.monotonic(), receive, url, part, deadline)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", "")
            code = 0
            if isinstance(error, urllib.error.HTTPError):  # it is the answer too, with an open connection
                code = error.code
                error.close()
            if code == 416:  # nothing is behind what is there: it was complete, or is of another file
                part.unlink(missing_ok=True)
            elif 0 < code < 500 and code not in TRY_AGAIN:
                raise ServerRefusesError(f"{source}: {answer_of(error)}") from None
            elif getattr(error, "errno", None) in DISK_FULL:
                raise
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ValueError(
                    f"{source}: the server's certificate is not trusted ({reason.verify_message}); "
                    "SSL_CERT_FILE names a file of others to trust"
                ) from None
            if attempt == ATTEMPTS or time.monotonic() >= deadline:
                raise


def cache_folder():
    """Return the folder that downloads are kept in. Raises ValueError if none is named and the user has no home."""
    try:
        return Path(os.environ.get("CAPTIONING_CACHE") or Path.home() / ".cache" / "captioning")
    except RuntimeError:
        raise ValueError("CAPTIONING_CACHE: got none, and this user has no home; name a folder for downloads") from None


def check_address(url):
    """Raise ValueError unless an address is https, or http on this machine."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")):
        return
    raise ValueError(f"{url}: allowed is https (http from this machine alone)")


def check_suffix(source, name):
    """Raise ValueError unless a file's name is a model's."""
    if not name.endswith(SUFFIXES):
        raise ValueError(f"{source}: the name of a model ends in {' or '.join(SUFFIXES)}")


class CheckedRedirect(urllib.request.HTTPRedirectHandler):
    """Follow a redirect to an address that is allowed itself."""

    def redirect_request(self, request, file, code, message, headers, url):
        try:
            check_address(url)
        except ValueError:
            file.close()
            raise
        return super().redirect_request(request, file, code, message, headers, url)


def receive(url, part, deadline):
    """Write what `url` gives in one connection to the file `part`, going on behind what is there.

    deadline: time of the monotonic clock, after which nothing is written

    Starts anew where the server's file has changed since, or cannot be told from another.

    Raises ValueError, OSError or HTTPException; TimeoutError, which is an OSError, if the server is too slow.
    """
    mark = part.with_name(f"{part.name}.etag")  # tells which of the server's files `part` is a piece of
    have = part.stat().st_size if part.is_file() and mark.is_file() else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark.read_text())
    with urllib.request.build_opener(CheckedRedirect).open(request, timeout=TIMEOUT) as response:
        if response.status != 206:
            have = 0
        total = 0 if response.length is None else have + response.length
        if max(have, total) > MAX_BYTES:
            raise ValueError(f"{url}: {total} bytes, at most {MAX_BYTES} are read")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if tag and not tag.startswith("W/"):
            mark.write_text(tag)
        else:
            mark.unlink(missing_ok=True)
        received, began = have, time.monotonic()
        with open(part, "r+b" if have else "wb") as file, progress_bar(part.stem, have, total) as bar:
            file.seek(have)
            while chunk := response.read1(CHUNK):  # read() would wait for the whole of a chunk, byte by byte
                received += len(chunk)
                seconds = time.monotonic() - began
                if time.monotonic() > deadline or received - have < LEAST_SPEED * seconds > LEAST_SPEED * TIMEOUT:
                    raise TimeoutError(f"{received - have} bytes in {seconds:.0f} seconds")
                if received > MAX_BYTES:
                    raise ValueError(f"{url}: at most {MAX_BYTES} bytes are read")
                file.write(chunk)
                bar.update(len(chunk))
        if total and received != total:
            raise ConnectionError(f"{received} of {total} bytes came")
    mark.unlink(missing_ok=True)


def progress_bar(name, have, total):
    """Return tqdm's bar in bytes on a terminal, or one that shows nothing where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return Silent()
    return tqdm(initial=have, total=total or None, desc=name, unit="B", unit_scale=True, disable=None)


class Silent:
    """A progress bar that shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def update(self, amount):
        """Do nothing."""


def check_content(source, path, digest):
    """Raise ValueError unless a file has the hash `digest` ("" = any), and is a whole model."""
    if digest:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise ValueError(f"{source}: its SHA-256 is {found}; nothing was kept")
    try:
        check_model(path)
    except ValueError as error:
        with open(path, "rb") as file:
            begin = file.read(16)
        told = f"{reason_of(error, path)}; it begins with {begin!r}"
        raise ValueError(f"{source}: what came is not a whole model ({told}); nothing was kept") from None
