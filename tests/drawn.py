"""The drawn dataset, made smaller for trainings that need no 60 classes."""

import shutil

from captioning.data.splits import SPLITS


def copy_classes(drawn, folder):
    """Copy the first 24 classes of a drawn dataset, with their captions."""
    shutil.copytree(drawn, folder)
    keep_classes(folder, 24, SPLITS)


def keep_classes(folder, number, splits):
    """Keep the first `number` classes of a drawn dataset in some of its splits."""
    table = folder / "captions.csv"
    rows = table.read_text(encoding="utf-8").splitlines(keepends=True)
    for split in splits:
        for dropped in sorted((folder / split).iterdir())[number:]:
            rows = [row for row in rows if not row.startswith(f"{split}/{dropped.name}/")]
            shutil.rmtree(dropped)
    table.write_text("".join(rows), encoding="utf-8")
