"""The captions as HTML: a card for each picture, and links that download them all."""

import base64
import html
import io
import math

from captioning.deploy.writers import WRITERS
from captioning.familiarity import is_unlike

CSS = """
.captions {display: flex; flex-direction: column; gap: .75rem}
.captions h2 {position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%)}
.captions article {display: grid; grid-template-columns: auto 1fr; gap: 0 .9rem; padding: .75rem;
  border: 1px solid var(--border-color-primary); border-radius: .5rem; align-items: start}
.captions article > div {min-width: 0}
.captions article > img {width: 6rem; border-radius: .35rem; grid-row: span 2}
@media (max-width: 767px) {
  .captions article > img {grid-row: auto; width: 5rem}
  .captions .more {grid-column: 1 / -1}
}
.captions h3 {margin: .1rem 0 .3rem; font-size: 1.2rem; line-height: 1.35; overflow-wrap: anywhere}
.captions p {margin: .3rem 0; font-size: .9rem}
.captions .name {margin: 0; overflow-wrap: anywhere}
.captions ol {margin: .3rem 0 0; padding-left: 1.3rem; list-style: decimal; font-size: .95rem}
.captions .sure {display: flex; align-items: center; gap: .6rem; flex-wrap: wrap}
.captions meter {flex: 1; min-width: 4rem; max-width: 12rem; height: .8rem}
.captions .unlike, .captions .problem {border-left: .3rem solid #c0392b; padding-left: .6rem}
.captions .unlike b {font-size: 1rem; display: block}
.captions button, .captions a.download {border: 1px solid currentColor; border-radius: .35rem; padding: .3rem .7rem;
  font-size: .9rem; color: inherit; background: transparent; cursor: pointer; text-decoration: none}
.captions .looked {display: flex; flex-wrap: wrap; gap: .4rem}
.captions figure {margin: 0; text-align: center; font-size: .8rem}
.captions figure img {width: 6rem; border-radius: .25rem}
"""
# One listener for all cards, since each answer replaces them. Outside https and localhost there is no clipboard API,
# and a browser may refuse it.
SCRIPT = """
element.setAttribute('aria-live', 'polite');
function copyByHand(button) {
  const field = document.createElement('textarea');
  field.value = button.dataset.copy;
  button.after(field);
  field.select();
  document.execCommand('copy');
  field.remove();
  button.focus();
}
element.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-copy]');
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    copyByHand(button);
  }
  button.textContent = button.dataset.done;
});
"""


def show(results, text, num_left_out=0):
    """Return the HTML of what was found in pictures.

    results:      dicts: `name` of the file, and either `problem`, a sentence, or `records` of its captions, the best
                  first (Caption.record), and `thumbnail`, JPEG; `looked`, (word, JPEG) pairs, of a model with attention
    text:         TEXT of a language
    num_left_out: pictures beyond the bound
    """
    cards = [card(number, result, text) for number, result in enumerate(results, start=1)]
    if num_left_out:
        cards.append(problem(text["too_many"].format(count=len(results))))
    captioned = [result for result in results if "records" in result]
    notes = [f"<p>{html.escape(text['confidence_info'])}</p>", downloads(captioned, text)] if captioned else []
    return page([*cards, *notes], text)


def page(parts, text):
    """Return the HTML of all that the page shows beside the pictures."""
    return f'<div class="captions"><h2>{html.escape(text["captions"])}</h2>{"".join(parts)}</div>'


def message(sentence, text):
    """Return the HTML of a sentence where there are no captions."""
    return page([f"<p>{html.escape(sentence)}</p>"], text)


def failure(sentence, text):
    """Return the HTML of a sentence that tells why there are no captions."""
    return page([problem(sentence)], text)


def problem(sentence, name=""):
    """Return the HTML of a sentence that tells what is wrong."""
    return (
        f'<article class="problem"><div role="alert"><p class="name">{html.escape(name)}</p>'
        f"<h3>{html.escape(sentence)}</h3></div></article>"
    )


def card(number, result, text):
    """Return the HTML of one picture's captions, or of the sentence why there are none."""
    name = f"{number}. {result['name']}"
    if "problem" in result:
        return problem(result["problem"], name)
    record, *others = result["records"]
    copy = html.escape(text["copy_caption"].format(name=result["name"]))
    return (
        f'<article><img src="{data_address("image/jpeg", result["thumbnail"])}" alt=""><div>'
        f'<p class="name">{html.escape(name)}</p><h3 lang="en">{html.escape(record["caption"])}</h3>'
        + unlike(record, text)
        + f'<div class="sure"><span>{confidence(record, text)}</span><meter min="0" max="1" '
        f'value="{record["confidence"]:.3f}" aria-label="{confidence(record, text)}"></meter>'
        f'<button type="button" aria-label="{copy}" data-copy="{html.escape(record["caption"])}" '
        f'data-done="{html.escape(text["copied"])}">{html.escape(text["copy"])}</button></div>'
        + '</div><div class="more">'
        + (alternatives(record, others, text) if others else "")
        + (heat_maps(result["looked"], text) if "looked" in result else "")
        + "</div></article>"
    )


def unlike(record, text):
    """Return the HTML of the warning that a picture is unlike the training pictures, or nothing."""
    if not is_unlike(record["familiarity"]):
        return ""
    share = math.floor(100 * (1 - record["familiarity"])) / 100
    info = text["unlike_info"].format(value=min(share, 0.99))
    return f'<p class="unlike" role="note"><b>{html.escape(text["unlike"])}</b> {html.escape(info)}</p>'


def alternatives(record, others, text):
    """Return the HTML of the captions that were not chosen, and why a surer one was not."""
    items = "".join(
        f'<li><span lang="en">{html.escape(other["caption"])}</span> <span>({confidence(other, text)})</span></li>'
        for other in others
    )
    surer = any(other["confidence"] > record["confidence"] for other in others)
    return (
        f'<ol start="2" aria-label="{html.escape(text["alternatives"])}">{items}</ol>'
        + f"<p>{html.escape(text['surer'])}</p>" * surer
    )


def heat_maps(looked, text):
    """Return the HTML of a small picture for each word, bright where the model looked for it."""
    figures = [
        f'<figure><img src="{data_address("image/jpeg", picture)}" alt="">'
        f'<figcaption lang="en">{html.escape(word)}</figcaption></figure>'
        for word, picture in looked
    ]
    return f'<p>{html.escape(text["looked"])}</p><div class="looked">{"".join(figures)}</div>'


def confidence(record, text):
    """Return the confidence of a caption in words."""
    return html.escape(text["confidence"].format(value=record["confidence"]))


def downloads(captioned, text):
    """Return the HTML of links to all captions as the files that caption.py writes."""
    objects = write(captioned, "jsonl").rstrip("\n").split("\n")  # a name may hold the other ends of lines
    byte_order_mark = "\ufeff"  # without it Excel takes Korean for another encoding
    files = {"csv": byte_order_mark + write(captioned, "csv"), "json": "[\n" + ",\n".join(objects) + "\n]\n"}
    links = [
        f'<a class="download" download="captions.{kind}" href="{data_address(f"text/{kind}", content.encode())}">'
        f"{kind.upper()}</a>"
        for kind, content in files.items()
    ]
    return f"<p>{html.escape(text['download'])} {' '.join(links)}</p>"


def write(captioned, form):
    """Return what caption.py writes of the captions, in one of the WRITERS' forms."""
    file = io.StringIO()
    writer = WRITERS[form](file)
    for result in captioned:
        writer.write(result["name"], result["records"])
    return file.getvalue()


def data_address(kind, content):
    """Return the data: address of bytes."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
