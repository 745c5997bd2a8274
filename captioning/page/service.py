"""What the page does with a request: checks it, has it captioned, and answers within bounds."""

import json
import sys
from pathlib import Path

from captioning.cli import one_line
from captioning.files import resolved
from captioning.page import results
from captioning.page.labels import TEXT
from captioning.search.options import SETTINGS

MAX_NAME = 120  # characters of the name of a picture
OWN_PENALTY = -1  # length_penalty that stands for the model's own
CONTROLS = {  # name -> (least, most, step)
    "beam_size": (1, 10, 1),
    "num_best": (1, 10, 1),
    "max_len": (2, 60, 1),
    "length_penalty": (0, 2, 0.1),
}


def is_below(path, folders):
    """Return whether a path, its links followed, lies in one of the folders."""
    try:
        real = resolved(path)
    except (OSError, ValueError):  # a null byte
        return False
    return any(real.is_relative_to(resolved(folder)) for folder in folders)


class Service:
    """Captions for visitors and for programs, within bounds.

    worker:   Worker whose function takes (model, paths, settings, max_pixels) and returns for each path what
              captioning.page.results.show takes, but for the name, or {} for a file that is no picture; its `about`
              is {model: {"classes", "length_penalty"}}
    examples: (path, model) pairs
    uploads:  folder that a visitor's pictures must lie in, or be examples
    bounds:   dict with max_pictures, max_megapixels, max_seconds
    """

    def __init__(self, worker, examples, uploads, bounds):
        self.worker, self.models, self.examples, self.bounds = worker, worker.about, examples, bounds
        # A request sent by hand can name any path of this machine; Gradio checks those alone that it marked itself.
        self.folders = [uploads, *{str(Path(path).parent) for path, _ in examples}]

    def find(self, paths, model, settings):
        """Return results for picture files, as captioning.page.results.show takes them; `problem` is a key of TEXT.

        Raises ValueError, TimeoutError or RuntimeError, as the worker does.
        """
        settings = {name: value if name == "length_penalty" else int(value) for name, value in settings.items()}
        settings["num_best"] = min(settings["num_best"], settings["beam_size"])
        paths = paths[: self.bounds["max_pictures"]]
        safe = [path if is_below(path, self.folders) else "" for path in paths]
        max_pixels, seconds = int(self.bounds["max_megapixels"] * 1e6), self.bounds["max_seconds"]
        found = self.worker(model, safe, settings, max_pixels, seconds=seconds)
        names = [Path(path).name[:MAX_NAME] for path in paths]
        gone = [bool(path) and not Path(path).exists() for path in safe]  # uploads are not kept for ever
        problems = [{"problem": "gone" if absent else "unreadable"} for absent in gone]
        return [{"name": name, **(one or problem)} for name, one, problem in zip(names, found, problems, strict=True)]

    def show(self, paths, model, settings, language):
        """Return the HTML of the captions of picture files, in words of a language of TEXT."""
        text = TEXT[language]
        if not paths:
            return results.message(text["empty"], text)
        try:
            found = self.find(paths, model, settings)
        except TimeoutError as error:
            warn(error)
            return results.failure(text["too_long"].format(seconds=self.bounds["max_seconds"]), text)
        except (RuntimeError, ValueError) as error:
            warn(error)
            return results.failure(text["failed"], text)
        return results.show([self.told(one, text) for one in found], text, len(paths) - len(found))

    def answer(self, paths, model, settings):
        """Return for each picture file what caption.py writes as JSON, or {"image", "error"}.

        Raises ValueError, one sentence, if there are none.
        """
        text = TEXT["en"]
        if len(paths) > self.bounds["max_pictures"]:
            raise ValueError(text["too_many"].format(count=self.bounds["max_pictures"]))
        try:
            found = self.find(paths, model, settings)
        except TimeoutError as error:
            warn(error)
            raise ValueError(text["too_long"].format(seconds=self.bounds["max_seconds"])) from None
        except (RuntimeError, ValueError) as error:
            warn(error)
            raise ValueError(text["failed"]) from None
        return [to_object(self.told(one, text)) for one in found]

    def told(self, result, text):
        """Return one of the results of `find` with its problem as a sentence."""
        if "problem" not in result:
            return result
        return result | {"problem": text[result["problem"]].format(megapixels=self.bounds["max_megapixels"])}

    def check_call(self, body, inputs):
        """Complete a call of the server. Raises ValueError, one sentence, if no function can answer it.

        body:   {"data": [...]}, and of the page's own calls "fn_index"; the endpoint's may leave out the last values
        inputs: {number of a function: names of its inputs}; None stands for the endpoint
        """
        number, data = body.get("fn_index"), body.get("data")
        if isinstance(number, bool | float | list | dict) or number not in inputs:
            raise ValueError(f"fn_index: there is no function {cut(number)}")
        names = inputs[number]
        if not isinstance(data, list):
            raise ValueError(f"data: got {cut(data)}, a list is needed: {', '.join(names)}")
        if number is None:
            data = [*data, *self.defaults()[len(data) :]]
        if len(data) != len(names):
            raise ValueError(f"data: got {len(data)} values, needed are {len(names)}: {', '.join(names)}")
        return body | {"data": [self.checked(name, value) for name, value in zip(names, data, strict=True)]}

    def defaults(self):
        """Return the values of the endpoint's inputs: pictures, model, and the settings in the order of CONTROLS."""
        settings = {name: SETTINGS.get(name, 1) for name in CONTROLS} | {"length_penalty": OWN_PENALTY}
        return [[], next(iter(self.models)), *settings.values()]

    def checked(self, name, value):
        """Return a value for the input `name`. Raises ValueError, one sentence, if it can have none like this."""
        if name == "pictures":
            paths = paths_of(value)
            # Gradio would open the files that are marked as its own, before they are checked here.
            return value if isinstance(value, str) else [{"path": path} for path in paths]
        if name == "model":
            if not isinstance(value, str) or value not in self.models:
                raise ValueError(f"model: got {cut(value)}, allowed are {', '.join(self.models)}")
        elif name in CONTROLS:
            check_control(name, value)
        return value


def paths_of(pictures):
    """Return the paths of the uploads in an input of `pictures`: a list of {"path"}, or that as JSON text.

    Raises ValueError, one sentence, if it is anything else.
    """
    try:
        files = json.loads(pictures) if isinstance(pictures, str) else pictures
    except (ValueError, RecursionError):
        files = pictures
    if not isinstance(files, list):
        raise ValueError(f"pictures: got {cut(files)}, a list is needed")
    for file in files:
        if not isinstance(file, dict) or not isinstance(file.get("path"), str):
            raise ValueError(f'pictures: got {cut(file)}, needed is {{"path": what the upload answered}}')
    return [file["path"] for file in files]


def to_object(result):
    """Return the object of a picture's captions, as caption.py writes it as JSON, or {"image", "error"}."""
    if "problem" in result:
        return {"image": result["name"], "error": result["problem"]}
    best, *others = result["records"]
    return {"image": result["name"], **best, "alternatives": others}


def check_control(name, value):
    """Raise ValueError, one sentence, unless a control of CONTROLS can have this value."""
    least, most, step = CONTROLS[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "length_penalty" and is_number and value == OWN_PENALTY:
        return
    if not (is_number and least <= value <= most and (step != 1 or value == int(value))):
        others = ", whole numbers" if step == 1 else f", or {OWN_PENALTY} for the model's own"
        raise ValueError(f"{name}: got {cut(value)}, allowed is {least} to {most}{others}")


def cut(value):
    """Return a value as text that can be quoted: short, and without control characters."""
    return ascii(value)[:60]


def warn(error):
    """Tell the one who runs the page why a request has no captions."""
    print(f"warning: a request has no captions: {one_line(error, 300)}", file=sys.stderr)
