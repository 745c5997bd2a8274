"""What a reader of annotations returns: an entry for each image, before its picture is looked for."""

from dataclasses import dataclass


@dataclass(slots=True)
class Entry:
    """An image as an annotation file has it.

    name:     relative path, as the file spells it
    captions: those that can be used, perhaps none
    label:    the class, "" = none; None = what the picture's folder says
    split:    "train", "val" or "test"; "" = the file does not say
    where:    the place in the file, as "line 3"
    """

    name: str
    captions: list
    label: str | None
    split: str
    where: str
