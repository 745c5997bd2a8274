"""The field in which a visitor drops, pastes, chooses or photographs pictures, for gr.HTML.

Its value is JSON text: a list of {"path": what the upload answered}. Gradio's own gallery shows raw names of labels,
English in Korean, and buttons inside buttons, which a reader aloud cannot tell apart.
"""

import json

from captioning.page.labels import TEXT

TEMPLATE = """<label class="picker"><input type="file" accept="image/*" multiple><strong></strong><span></span></label>
<p class="picker-status" role="status"></p>"""
CSS = """
.picker {display: flex; flex-direction: column; align-items: center; gap: .3rem; padding: 1.4rem 1rem; cursor: pointer;
  border: 2px dashed var(--neutral-400); border-radius: .5rem; text-align: center}
.picker:hover, .picker:focus-within, .picker.over {border-color: var(--primary-500)}
.picker:focus-within {outline: 3px solid var(--primary-500); outline-offset: 2px}
.picker input {position: absolute; width: 1px; height: 1px; opacity: 0}
.picker-status:empty {display: none}
.picker-status {margin: .4rem 0 0}
"""
REFUSED = ("no_picture", "too_large", "no_room", "cut_off")  # why a file is not uploaded
WORDS = ("pick", "pick_info", "uploading", *REFUSED)
SCRIPT = """
const words = WORDS[navigator.language.toLowerCase().split('-')[0]] ?? WORDS.en;
const reasons = {413: 'too_large', 507: 'no_room'};  // by the status of the answer
let coming = 0, refused = {};  // files that are being uploaded; names of those that are not, by the reason
const label = () => element.querySelector('.picker');
const say = () => {
  const told = Object.entries(refused).map(([reason, names]) => words[reason] + ' ' + names.join(', '));
  element.querySelector('.picker-status').textContent = [...(coming ? [words.uploading] : []), ...told].join(' ');
};
const draw = () => {
  element.querySelector('strong').textContent = words.pick;
  element.querySelector('.picker span').textContent = words.pick_info;
};
draw();
async function add(files) {
  if (!files.length) return;  // text was pasted
  if (!coming) refused = {};
  coming += files.length;
  say();
  const arrived = [];
  for (const file of files) {
    try {
      if (!file.type.startsWith('image/')) throw new TypeError('no_picture');
      arrived.push({path: (await upload(file)).path});
    } catch (error) {
      const status = /HTTP (\\d+)/.exec(error.message)?.[1];
      const reason = error.message === 'no_picture' ? 'no_picture' : reasons[status] ?? 'cut_off';
      (refused[reason] ??= []).push(file.name);
    }
    coming -= 1;
  }
  // What the field holds now: while these came, others may have been added, or all cleared.
  if (arrived.length) props.value = JSON.stringify([...JSON.parse(props.value || '[]'), ...arrived]);
  draw();
  say();
  if (arrived.length) trigger('upload');
}
element.addEventListener('change', (event) => {
  if (event.target.type !== 'file') return;
  const files = [...event.target.files];
  event.target.value = '';  // so that the same file can be chosen again
  add(files);
});
for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop'])
  element.addEventListener(kind, (event) => {
    event.preventDefault();
    label().classList.toggle('over', kind === 'dragenter' || kind === 'dragover');
    if (kind === 'drop') add([...event.dataTransfer.files]);
  });
document.addEventListener('paste', (event) => add([...event.clipboardData.files]));
watch('value', () => {
  draw();
  if (props.value === '[]') refused = {};  // cleared
  say();
});
"""


def script():
    """Return the field's JavaScript, with its words in it."""
    words = {language: {name: text[name] for name in WORDS} for language, text in TEXT.items()}
    return f"const WORDS = {json.dumps(words, ensure_ascii=False)};{SCRIPT}"
