"""A cache of features on disk: what a frozen encoder computed once is read again as long as nothing has changed.

A file is named by a fingerprint of all that its tensors depend on, so no file is ever out of date. When room is
needed, the files that were read the longest ago are deleted. What is larger than memory may be is in several files,
<key>-00000.safetensors and so on, which are read row by row.

Of several ranks each computes its share, in the batches that one rank would make, and the first writes: the files are
those of one rank, byte for byte.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import weakref
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from captioning.cli import one_line
from captioning.data.images import check_share
from captioning.data.tars import split_place
from captioning.evaluation import ImageDataset, encode_images, encode_together
from captioning.familiarity import fit_familiarity
from captioning.files import hold_lock, remove_unfinished, replace_file
from captioning.process import return_freed_memory
from captioning.runtime import from_first, is_first

FORMAT = 2  # of the cached files; format 1 was named by the repr of the transforms, which hides some settings
FEATURES_DIR = "runs/features"  # what frozen encoders computed, to be read again
MAX_VIEWS_BYTES = 3 * 10**9  # of them in memory; pooled features of COCO's train split in four views are 2.4 GB
PART_BYTES = 10**9  # of each file where they are more
MAX_BYTES = 8 * 10**9  # of all files, beside those of a run that needs more
CHECKSUM = "sha256"  # key in the metadata of a file
DESCRIBED_IMAGES = 2000  # of a split, to learn what training pictures look like
HEADER_BYTES = 4096  # more than the names and shapes of a few tensors take


def library_versions():
    """Return the versions of the libraries that decode, resize and encode images."""
    return [version(name) for name in ("torch", "torchvision", "pillow")]


def fingerprint(weights, description, paths):
    """Return 64 hex digits of a sha256 over what features depend on.

    weights:     name -> tensor, of the encoder; names, types, shapes and bytes count, their order does not
    description: text that says the rest, see describe_views
    paths:       the image files, in order; each counts with its name, size and time of change

    Raises FileNotFoundError for an image that is not there.
    """
    digest = hashlib.sha256(json.dumps([description, *library_versions()]).encode())
    add_tensors(digest, weights)
    for path in paths:
        place = split_place(path)
        status = os.stat(place[0] if place else path)
        digest.update(json.dumps([os.fspath(path), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()


def add_tensors(digest, tensors):
    """Add names, types, shapes and bytes of a dict of tensors to a hashlib digest, in the order of the names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # As bytes, because numpy has no bfloat16; flat first, because a scalar cannot be seen as several bytes.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def checksum(tensors):
    """Return the sha256 of a dict of tensors as hex digits."""
    digest = hashlib.sha256()
    add_tensors(digest, tensors)
    return digest.hexdigest()


def cached(folder, key, compute, max_bytes=MAX_BYTES):
    """Return the tensors stored under a key; where there are none, compute and store them.

    key:       of `fingerprint`; the file is <folder>/<key>.safetensors
    compute:   () -> name -> tensor, stored in the type that it has; float16 takes half the room of float32
    max_bytes: of all files in the folder; what is larger is returned, but not stored

    A damaged file is computed again, and a full disk stores nothing; a warning line says so. Of several ranks the first
    looks and stores, and all compute, or none.
    """
    path = Path(folder) / f"{key}.safetensors"
    tensors = load_kept(path) if is_first() else None
    with contextlib.ExitStack() as stack:
        if not from_first(lambda: tensors is not None):
            if is_first():
                lock = hold_lock(path.with_suffix(".lock"), "the same features are being computed by", wait=True)
                with contextlib.suppress(OSError):  # where nothing can be written, `store` says so
                    if stack.enter_context(lock):
                        remove_unfinished(folder)
                        tensors = load_kept(path)  # another process may have had it until now
            if not from_first(lambda: tensors is not None):
                tensors = compute()
                from_first(lambda: store(path, tensors, max_bytes))  # no rank looks for the file before it is there
    return load(path) if tensors is None else tensors


def load_kept(path):
    """Return the tensors of a file, None if there is none; a damaged one is told and removed."""
    try:
        tensors = load(path)
        os.utime(path)  # the oldest is the one that was not asked for the longest
        return tensors
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError) as error:
        print(f"warning: {path}: damaged ({one_line(error)}); computed again")
        path.unlink(missing_ok=True)
        return None


def load(path):
    """Read a dict of tensors. Raises FileNotFoundError, or SafetensorError, OSError or ValueError if damaged."""
    with safe_open(path, framework="pt") as file:
        expected = (file.metadata() or {}).get(CHECKSUM)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if checksum(tensors) != expected:  # safetensors itself notices a wrong size, but no changed byte
        raise ValueError("its checksum is another")
    return tensors


def store(path, tensors, max_bytes):
    """Write a dict of tensors, after deleting the oldest files of the folder until it fits into `max_bytes`.

    Where that cannot be done a warning line says so.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    room = max_bytes - HEADER_BYTES - sum(tensor.nbytes for tensor in tensors.values())
    if room < 0:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files = []
        for file in path.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another run makes room, too
                status = file.stat()
                files.append((status.st_mtime_ns, status.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= room:
                break
            if file.suffix == path.suffix and not file.name.startswith("."):  # no lock, nor what is being written
                file.unlink(missing_ok=True)
                total -= size
        with replace_file(path) as temporary:
            save_file(tensors, temporary, {CHECKSUM: checksum(tensors)})
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error  # without the file's name, which stands there already
        print(f"warning: {path}: not stored ({' '.join(str(reason).split())})")


class MappedViews:
    """(N, W, ...) of which rows are read from the disk as they are asked for: `views[images, numbers]`.

    key:   of `fingerprint`: what they depend on
    parts: tensors (n, W, ...) of memory-mapped files; the rows of one follow those of the other
    files: descriptors of these files, which end with their tensor, and which it closes; () = the rows are read through
           the mapping, as on Windows
    """

    def __init__(self, key, parts, files=()):
        self.key, self.parts = key, list(parts)
        self.starts = torch.tensor([0, *accumulate(map(len, self.parts))])
        self.shape = torch.Size([int(self.starts[-1]), *self.parts[0].shape[1:]])
        self.ndim = len(self.shape)
        self.files = list(files)
        for file in self.files:
            weakref.finalize(self, os.close, file)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, where):
        """Return the views `where[1]` (B,) of the images `where[0]` (B,); of `[:, number]` the MappedViews."""
        images, numbers = where
        if isinstance(images, slice):
            return MappedViews(self.key, [part[images, numbers] for part in self.parts])
        found = torch.empty(len(images), *self.shape[2:], dtype=self.parts[0].dtype)
        holders = torch.bucketize(images, self.starts, right=True) - 1
        if self.files:
            rows = (images - self.starts[holders]) * self.shape[1] + numbers
            self.read(holders.tolist(), rows.tolist(), found)
            return found
        for holder in holders.unique().tolist():
            rows = holders == holder
            found[rows] = self.parts[holder][images[rows] - self.starts[holder], numbers[rows]]
        return found

    def read(self, holders, rows, found):
        """Read rows of parts into the tensor `found`; a mapping would read 128 KB for each, one after another."""
        size = found[:1].nbytes
        starts = [os.fstat(file).st_size - part.nbytes for file, part in zip(self.files, self.parts, strict=True)]
        places = [(self.files[h], starts[h] + row * size) for h, row in zip(holders, rows, strict=True)]
        if hasattr(os, "posix_fadvise"):
            for file, begin in places:  # the disk reads them all at once
                os.posix_fadvise(file, begin, size, os.POSIX_FADV_WILLNEED)
        for (file, begin), row in zip(places, found.flatten(1).view(torch.uint8).numpy(), strict=True):
            os.preadv(file, [row], begin)

    def rows(self, begin, end):
        """Return the tensor of the rows from `begin` to `end`."""
        starts = self.starts.tolist()
        return torch.cat(
            [part[max(begin - start, 0) : max(end - start, 0)] for part, start in zip(self.parts, starts, strict=False)]
        )

    def split(self, size):
        """Return tensors of at most `size` rows, all of them one after another."""
        return [chunk for part in self.parts for chunk in part.split(size)]


def part_path(key, number):
    """Return the file of a part of large features."""
    return Path(FEATURES_DIR, f"{key}-{number:05}.safetensors")


def stored_in_parts(key, sizes, compute, num_bytes):
    """Return ([{name: tensor}], memory-mapped, descriptors of their files) of what is too large for the memory.

    Missing parts are computed. Each file is opened once it is there: a run beside this one may remove it to make room.

    sizes:   rows of each part; compute: (its rows as a range) -> name -> tensor
    num_bytes: of all parts, and of what must stay beside them

    Raises ValueError if the disk has no room for them.
    """
    parts, files, starts = [], [], [0, *accumulate(sizes)]
    for number, size in enumerate(sizes):
        rows = range(starts[number], starts[number] + size)
        path, most = part_path(key, number), MAX_BYTES + num_bytes
        cached(FEATURES_DIR, path.stem, lambda rows=rows: compute(rows), most)
        return_freed_memory()
        try:
            with safe_open(path, framework="pt") as file:  # its tensors stay mapped
                parts.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
            if hasattr(os, "preadv"):
                files.append(os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            told = f"{num_bytes / 1e9:.1f} GB of features are read from the disk, and could not be stored there"
            raise ValueError(f"{path}: {told}") from None
    return parts, files


def describe_views(views, machine, seed, shape):
    """Return all that cached views depend on beside the weights and the images, as text: settings, never a repr.

    views: transforms, dataclasses whose fields are their settings; shape: of one output
    """
    settings = [[type(view).__name__, dataclasses.asdict(view)] for view in views]
    computed = {"device": machine.device.type, "dtype": str(machine.dtype), "seed": seed, "shape": list(shape)}
    return json.dumps([FORMAT, settings, computed], sort_keys=True)


def compute_views(trunk, paths, views, machine, seed, what):
    """Run the frozen trunk over views of the images, or read what it gave the last time.

    views:   a transform for each view, as data_loader has them
    machine: runtime.Machine; the number of its workers does not matter
    seed:    of the random transforms: (seed, view, index of the image) decide what is drawn
    what:    names the images on the progress bar
    returns: (N,) long positions of the readable images, (N, W, ...) its outputs, W = len(views); maps as float16. Where
             they are more than MAX_VIEWS_BYTES, MappedViews of them

    All ranks call it. Raises ValueError if the disk has no room for what is more.
    """
    with torch.inference_mode():
        output = trunk.eval()(views[0](Image.new("RGB", (256, 256)))[None].to(machine.device))
    kind, row_bytes = stored_as(output, len(views))
    num_bytes = len(paths) * row_bytes
    if num_bytes > MAX_VIEWS_BYTES:
        check_room(num_bytes, f"{len(views)} views of {len(paths):,} {what}")

    def compute(rows):
        found = None
        for number, view in enumerate(views):
            bar = f"{what}, view {number + 1}/{len(views)}"
            images = ImageDataset(paths, view, (seed, number))
            kept, outputs = encode_together(trunk, images, rows, machine, bar, kind)
            if found is None:
                found = torch.empty(len(kept), len(views), *output.shape[1:], dtype=kind)
            if outputs is not None:
                found[:, number] = outputs
            del outputs
            return_freed_memory()
        return {"kept": kept, "views": found}

    # The shape too: with attention the same weights give positions, where they are pooled without it.
    described = describe_views(views, machine, seed, output.shape[1:])
    key = fingerprint(trunk.state_dict(), described, paths)
    if num_bytes <= MAX_VIEWS_BYTES:
        tensors = cached(FEATURES_DIR, key, lambda: compute(range(len(paths))))
        return tensors["kept"], tensors["views"]
    # Whole batches, so that an image stands in the same batch whatever the parts are.
    sizes = part_sizes(len(paths), row_bytes, machine.batch_size)
    parts, files = stored_in_parts(key, sizes, compute, num_bytes)
    kept = torch.cat([part["kept"] for part in parts])
    check_share(len(paths) - len(kept), len(paths), what)  # each part may have had few
    return kept, MappedViews(key, [part["views"] for part in parts], files)


def stored_as(output, num_views):
    """Return the type in which views are stored, and the bytes of a row of them; output: of one view (1, ...)."""
    kind = torch.float16 if output.ndim > 2 else torch.float32
    return kind, num_views * output[0].numel() * kind.itemsize


def part_sizes(num_rows, row_bytes, batch_size=1):
    """Return the number of rows of each part, which has whole batches."""
    size = max(1, PART_BYTES // row_bytes // batch_size) * batch_size
    return [min(size, num_rows - begin) for begin in range(0, num_rows, size)]


def check_room(num_bytes, what):
    """Raise ValueError if the disk has no room for features of so many bytes, other features deleted."""
    folder = Path(FEATURES_DIR)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    kept = sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
    room = shutil.disk_usage(nearest).free + kept
    if num_bytes > room:
        raise ValueError(
            f"--train.feature_views: {what} take {num_bytes / 1e9:.1f} GB, {FEATURES_DIR} has room for "
            f"{room / 1e9:.1f} GB; give fewer views, or all blocks to --train.finetune_blocks, which reads image files "
            f"instead"
        )


def head_views(head, views, run):
    """Return what a frozen network makes of all views: (N, W, ...), or MappedViews of more than MAX_VIEWS_BYTES.

    views: of `compute_views`
    run:   (network, inputs (M, ...), type) -> (M, ...) on the CPU, of that type; called by all ranks alike

    Raises ValueError if the disk has no room for what is more.
    """
    in_memory = torch.is_tensor(views)
    first = views[:1, 0] if in_memory else views.rows(0, 1)[:, 0]
    kind, row_bytes = stored_as(run(head, first, torch.float32), views.shape[1])

    def through(inputs):
        return run(head, inputs.flatten(0, 1), kind).unflatten(0, inputs.shape[:2])

    num_bytes = len(views) * row_bytes
    if in_memory and num_bytes <= MAX_VIEWS_BYTES:
        return through(views)
    weights, of = (head.state_dict() | {"views": views}, "") if in_memory else (head.state_dict(), views.key)
    key = fingerprint(weights, f"head of {of}", [])

    def compute(rows):
        return {"views": through(views[rows.start : rows.stop] if in_memory else views.rows(rows.start, rows.stop))}

    theirs = 0 if in_memory else sum(part.nbytes for part in views.parts)  # which stay beside them, for a resumed run
    sizes = part_sizes(len(views), max(row_bytes, theirs // max(1, len(views))))  # a part and its inputs are in memory
    parts, files = stored_in_parts(key, sizes, compute, num_bytes + theirs)
    return MappedViews(key, [part["views"] for part in parts], files)


class Descriptions(torch.nn.Module):
    """(B, 3, S, S) images -> (B, W), the descriptions that an encoder makes of them, block after block."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images):
        return torch.cat(self.encoder.describe(images)[1], dim=1)


def learn_familiarity(model, train_paths, val_paths, transform, machine):
    """Return what the training pictures of a model look like, as a checkpoint keeps it; {} = there are too few.

    Of a large split DESCRIBED_IMAGES are read, evenly spread. In float32, as the captioner computes it.
    """
    machine = dataclasses.replace(machine, dtype=torch.float32)
    network, found = Descriptions(model.encoder).to(machine.device).eval(), []
    for split, paths in (("train", train_paths), ("val", val_paths)):
        few = [paths[int(i)] for i in torch.linspace(0, len(paths) - 1, min(len(paths), DESCRIBED_IMAGES))]
        found.append(encode_images(network, few, transform, machine, bar=f"familiarity, {split} images")[1].numpy())
    with torch.inference_mode():
        image = transform(Image.new("RGB", (256, 256)))[None].to(machine.device)
        widths = [part.shape[1] for part in model.encoder.describe(image)[1]]
    familiarity = fit_familiarity(*found, widths)
    return familiarity.to_json() if familiarity else {}


def as_input(inputs, device):
    """Move inputs of a Batch to the device, in the layout and type that networks take; pixels stay as they are."""
    inputs = inputs.to(device, non_blocking=True)
    if inputs.dtype == torch.uint8:
        return inputs
    inputs = inputs.float()
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
