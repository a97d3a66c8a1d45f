// The page of isnet serve: puts the parts together.

import { getBlob, getVersions, at, Refusal } from './api.js';
import { Editor } from './edit.js';
import { runFill } from './filling.js';
import { History } from './history.js';
import { listenKeys, tellKeys } from './keys.js';
import { Mask } from './mask.js';
import { openPhoto } from './photo.js';
import { decodeMask, encodeMask } from './png.js';
import { listen } from './pointer.js';
import { duration, Review, save } from './review.js';
import { Stage } from './stage.js';

const $ = (id) => document.getElementById(id);
const on = (id, type, action) => $(id).addEventListener(type, action);
const TAP_MS = 250;
const VERSIONS_MS = 5000;
const KEEPS = ['none', 'facts', 'pictures'];

let served = { versions: [], samples: [], limits: {} };
let filling = null; // AbortController of the fill in progress
let hover = null; // the pointer on the stage
let isSpace = false;
let wasRead = false;

const stage = new Stage();
const history = new History(({ done, undone }) => {
  $('undo').disabled = !done.length;
  $('redo').disabled = !undone.length;
});
const editor = new Editor(stage, history, tell);
const review = new Review(stage, { tell, fail, goOn, versions: () => served.versions });

// Words to the person

function tell(words) {
  $('status').textContent = words;
}

function fail(error) {
  if (error.name === 'AbortError') return tell('Cancelled; your hole is still there.');
  if (!(error instanceof Refusal)) console.error(error);
  $('sentence').textContent = error.message;
  $('remedy').textContent = error.remedy ?? '';
  $('alert').hidden = false;
}

const hideAlert = () => ($('alert').hidden = true);

/** Runs what may be refused. */
const guarded = (action) => async (...values) => {
  hideAlert();
  try {
    await action(...values);
  } catch (error) {
    fail(error);
  }
};

// What the page is at: empty, edit, busy or review

function enter(state) {
  document.body.dataset.state = state;
  const isReview = state === 'review';
  $('edit').hidden = isReview;
  $('review').hidden = $('back').hidden = !isReview;
  $('fill').hidden = state === 'busy' || isReview;
  $('options').hidden = isReview || state === 'busy';
  $('busy').hidden = state !== 'busy';
  if (!isReview) $('modes').hidden = true;
  placeCursor();
}

const isAt = (state) => document.body.dataset.state === state;

// Photos and masks

const openFile = guarded(async (file, maskBlob = null) => {
  if (!file) return;
  filling?.abort();
  tell(`Opening ${file.name}`);
  const photo = await openPhoto(file, served.limits);
  const mask = new Mask(photo.width, photo.height);
  if (maskBlob) takeMask(mask, await decodeMask(maskBlob));
  mask.commit();
  history.reset();
  enter('edit');
  stage.open(photo, mask);
  editor.point = null;
  showSize();
  editor.report();
  tell(mask.count ? 'A hole is painted already: press Fill, or paint on.' : `${photo.width} × ${photo.height} pixels. Paint over what should go, then press Fill.`);
  stage.root.focus({ preventScroll: true });
});

function takeMask(mask, read) {
  if (read.width !== mask.width || read.height !== mask.height) {
    throw new Refusal(`The mask is ${read.width} × ${read.height} and the photo ${mask.width} × ${mask.height}; need the same size.`, 'Draw the mask on this photo.');
  }
  mask.load(read.pixels);
}

const loadMask = guarded(async (file) => {
  if (!file || !isAt('edit')) return;
  const read = await decodeMask(file).catch(() => {
    throw new Refusal(`${file.name} is no picture that this browser can read.`, 'Take a PNG, white in the hole.');
  });
  editor.change((mask) => takeMask(mask, read));
});

const stem = () => stage.photo.name.replace(/\.\w+$/, '');
const saveMask = guarded(async () => save(await encodeMask(stage.mask), `${stem()}-mask.png`));

function pick(id) {
  $(id).value = '';
  $(id).click();
}

async function openSample({ name, photo, mask }) {
  try {
    const [blob, hole] = await Promise.all([getBlob(photo), mask ? getBlob(mask) : null]);
    await openFile(new File([blob], `${name}.${blob.type.split('/')[1] ?? 'png'}`, { type: blob.type }), hole);
  } catch (error) {
    fail(error);
  }
}

// Fills

function fields() {
  const [first, second] = [$('first').value, $('second').value];
  const isPair = $('compare').checked && served.versions.length > 1;
  if (isPair && first === second) throw new Refusal('Both are the same version.', 'Choose two different ones to compare.');
  if (isPair && !first) throw new Refusal('There is one version to compare.', 'Choose the other one, too.');
  const versions = isPair ? [first, second] : first ? [first] : [];
  return [
    ...versions.map((version) => ['versions', version]),
    ['refine', $('refine').checked ? 'auto' : 'off'],
    ['grow', $('widen').value || '0'],
    ['feather', $('feather').value || '0'],
    ['blind', String(isPair && $('blind').checked)],
    ['keep', $('keep').value],
  ];
}

const startFill = guarded(async () => {
  if (!isAt('edit')) return;
  editor.end();
  const { photo, mask } = stage;
  if (!mask.count) throw new Refusal('Nothing is painted.', 'Paint over what should go, then press Fill.');
  const asked = fields();
  filling = new AbortController();
  const own = filling;
  enter('busy');
  $('cancel').focus({ preventScroll: true });
  try {
    const answer = await runFill(photo, mask, asked, { signal: own.signal, say });
    if (own.signal.aborted || stage.photo !== photo) return;
    const known = Object.fromEntries(asked);
    Object.assign(answer, { isBlind: known.blind === 'true', keep: known.keep });
    const show = () => {
      stage.answers = answer.fills;
      enter('review');
      review.show(answer, photo.name);
    };
    show();
    const bytes = answer.fills.reduce((sum, { levels }) => sum + 5 * levels[0].width * levels[0].height, 0);
    history.add({ undo: leaveReview, redo: show, bytes });
    tell(answer.fills.length > 1 ? 'Filled twice. Look, then vote.' : `Filled in ${duration(answer.fills[0].milliseconds)}. Compare with the original, vote, download, or go on with it.`);
  } finally {
    if (filling === own) filling = null;
    if (isAt('busy') && !filling) enter('edit');
    // The button that had it is gone.
    if (!$('panel').contains(document.activeElement) || document.activeElement === $('cancel')) stage.root.focus({ preventScroll: true });
  }
});

function say(words, share) {
  $('busy-text').textContent = words;
  if (share == null) $('progress').removeAttribute('value');
  else $('progress').value = share;
}

function leaveReview() {
  stage.answers = null;
  enter('edit');
  stage.look('one:1');
}

/** Makes a fill the photo that is painted on next; a step that can be undone. */
function goOn(one) {
  const before = { photo: stage.photo, mask: stage.mask, answers: stage.answers, answer: review.answer };
  const { photo } = before;
  const file = new File([one.blob], photo.name, { type: one.media_type });
  const next = { photo: { ...photo, file, levels: one.levels }, mask: new Mask(photo.width, photo.height) };
  const redo = () => {
    Object.assign(stage, next, { answers: null });
    leaveReview();
    editor.report();
  };
  const undo = () => {
    Object.assign(stage, before);
    enter('review');
    review.show(before.answer, photo.name);
    editor.report();
  };
  redo();
  history.add({ undo, redo, bytes: 2 * photo.width * photo.height });
  tell('Paint the next hole on this result.');
}

// The pointer

function grabs([x]) {
  if (stage.answers) {
    const isNear = Math.abs(x - stage.split * stage.size[0]) < 24;
    return stage.mode === 'slider' && (isNear || stage.view.isFit) ? 'split' : 'pan';
  }
  return isSpace || editor.tool === 'hand' || isAt('busy') ? 'pan' : 'draw';
}

const toPhoto = (point) => stage.view.toPhoto(stage.inPane(point));

listen(stage.root, {
  grabs,
  begin: (point, isErasing) => editor.begin([toPhoto(point)], isErasing),
  move: (points) => editor.move(points.map(toPhoto)),
  end: () => editor.end(),
  cancel: () => editor.cancel(),
  pan(dx, dy) {
    stage.view.pan(dx, dy);
    redraw();
  },
  zoom: (factor, point) => zoom((view, place) => view.zoomTo(view.scale * factor, place), point),
  split([x]) {
    stage.split = Math.min(1, Math.max(0, x / stage.size[0]));
    stage.refresh();
  },
  hover(point) {
    hover = point;
    if (point) editor.point = null;
    placeCursor();
  },
});

function zoom(how, point = hover ?? stage.size.map((side) => side / 2)) {
  if (!stage.photo) return;
  how(stage.view, stage.inPane(point));
  redraw();
}

function redraw() {
  stage.refresh();
  placeCursor();
}

/** Shows how wide the brush is, at the pointer or at the keyboard's point. */
function placeCursor() {
  const cursor = $('cursor');
  const place = editor.point ? stage.view.toPane(editor.point) : hover;
  const isBrush = editor.tool === 'brush' || editor.tool === 'eraser';
  cursor.hidden = !place || !isAt('edit') || (!isBrush && !editor.point) || isSpace;
  stage.root.dataset.grab = isSpace || stage.answers || isAt('busy') ? 'pan' : 'draw';
  if (cursor.hidden) return;
  const wide = isBrush ? Math.max(3, 2 * editor.radius * stage.view.scale) : 9;
  Object.assign(cursor.style, { width: `${wide}px`, height: `${wide}px`, translate: `${place[0] - wide / 2}px ${place[1] - wide / 2}px` });
}

function showSize() {
  $('size-px').textContent = `${Math.round(2 * editor.radius)} px`;
  placeCursor();
}

// The keyboard

const inStage = ({ target }) => target === stage.root || target === document.body;

/** Moves the keyboard's point: by 1/40 of the stage, with Shift five times that, with Alt one pixel. */
function step(dx, dy) {
  return (event) => {
    if (!inStage(event) || !stage.photo) return false;
    if (stage.answers) {
      if (stage.mode === 'slider' && dx) stage.split = Math.min(1, Math.max(0, stage.split + dx / 40));
      else stage.view.pan(-dx * 40, -dy * 40);
      return redraw();
    }
    const { photo, view } = stage;
    const far = event.altKey ? 1 : ((event.shiftKey ? 5 : 1) * Math.min(...stage.size)) / 40 / view.scale;
    const [x, y] = editor.point ?? (hover ? toPhoto(hover) : [photo.width / 2, photo.height / 2]);
    editor.point = [Math.min(photo.width - 0.5, Math.max(0.5, x + dx * far)), Math.min(photo.height - 0.5, Math.max(0.5, y + dy * far))];
    if (editor.stroke) editor.move([editor.point]);
    placeCursor();
    tell(`At ${editor.point.map(Math.floor).join(', ')}.`);
  };
}

function putDown(event) {
  if (!inStage(event) || !isAt('edit')) return false;
  if (editor.stroke) return editor.end();
  editor.point ??= hover ? toPhoto(hover) : [stage.photo.width / 2, stage.photo.height / 2];
  placeCursor();
  if (editor.tool === 'hand') return;
  editor.begin([editor.point], event.shiftKey);
  if (editor.tool === 'bucket') editor.end();
  else tell('The tool is down; D lifts it.');
}

function peek(isOn) {
  if (!stage.photo || stage.isPeeking === isOn) return;
  stage.isPeeking = isOn;
  stage.refresh();
}

let tabbed = 0;
function holdTab(event) {
  if (!inStage(event) || !stage.photo) return false;
  if (!event.repeat) tabbed = event.timeStamp;
  peek(true);
}

document.addEventListener('keyup', (event) => {
  if (event.key === ' ') {
    isSpace = false;
    placeCursor();
  }
  if (event.key !== 'Tab' || !stage.isPeeking) return;
  peek(false);
  // A short Tab goes on to the panel, so that nobody is caught here.
  if (event.timeStamp - tabbed < TAP_MS) $('panel').querySelector('section:not([hidden]) :is(button, input):not([hidden], :disabled)')?.focus();
});
window.addEventListener('blur', () => {
  isSpace = false;
  peek(false);
});

function escape() {
  if (!$('alert').hidden) return hideAlert();
  if (filling) return filling.abort();
  if (editor.cancel()) return;
  if (isAt('review')) history.done.length && leaveByUndo();
  document.body.classList.remove('sheet');
}

/** Going back to painting undoes the fill, so that redo shows it again. */
function leaveByUndo() {
  history.undo();
  tell('Back to painting; redo shows the result again.');
}

const choose = (tool) => () => {
  if (isAt('review')) leaveByUndo();
  if (!isAt('edit')) return;
  editor.choose(tool);
  placeCursor();
};
const resize = (by) => () => {
  $('size').value = Number($('size').value) + by;
  showSize();
};
const edit = (how) => () => editor.change(how);
const by = () => Math.min(256, Math.max(1, Math.round(Number($('by').value)) || 1));
const grow = edit((mask) => mask.grow(by()));
const shrink = edit((mask) => mask.grow(by(), 0));
const invert = edit((mask) => mask.invert());
const clear = edit((mask) => mask.fill(0));
const undo = () => !filling && (editor.cancel() || history.undo());
const redo = () => !filling && history.redo();
const saveNow = () => (isAt('review') ? review.download() : stage.photo && saveMask());

const KEYS = [
  ['Paint', 'Brush', 'b', choose('brush')],
  ['Paint', 'Eraser', 'e', choose('eraser')],
  ['Paint', 'Box', 'r', choose('box')],
  ['Paint', 'Lasso', 'l', choose('lasso')],
  ['Paint', 'Fill an outline', 'f', choose('bucket')],
  ['Paint', 'Move', 'h', choose('hand')],
  ['Paint', 'Brush smaller, larger', '[ ]'],
  ['Paint', 'Grow, shrink', 'g shift+g'],
  ['Paint', 'Invert', 'i', invert],
  ['Paint', 'Clear', 'delete backspace', clear],
  ['Paint', 'Undo', 'ctrl+z', undo],
  ['Paint', 'Redo', 'ctrl+shift+z ctrl+y', redo],
  ['Without a mouse', 'Move the point; Shift far, Alt one pixel', 'arrowleft arrowright arrowup arrowdown'],
  ['Without a mouse', 'Tool down, tool up; Shift erases', 'd shift+d', putDown],
  ['Look', 'The original, while held', 'tab', holdTab],
  ['Look', 'Move, while held', 'space', (event) => (inStage(event) && stage.photo ? ((isSpace = true), placeCursor()) : false)],
  ['Look', 'Zoom', '+ -'],
  ['Look', 'Fit into the window', '0', () => zoom((view) => view.fit())],
  ['Look', 'One pixel is one pixel', '9', () => zoom((view, place) => view.zoomTo(1 / (window.devicePixelRatio || 1), place))],
  ['Look', 'Next way to compare', 'v', () => isAt('review') && review.lookNext()],
  ['Fill', 'Fill', 'enter ctrl+enter', (event) => (inStage(event) || event.ctrlKey ? startFill() : false)],
  ['Fill', 'Cancel, or back to painting', 'escape', escape],
  ['Fill', 'Vote', '1 2 3 4'],
  ['Fill', 'Save the mask, or the result', 's', saveNow],
  ['Fill', 'Open a photo', 'o', () => pick('file')],
  ['Fill', 'This sheet', '?', () => $('help').showModal()],
];
tellKeys(KEYS, $('keys'));
listenKeys([
  ...KEYS,
  ['', '', '[', resize(-4)],
  ['', '', ']', resize(4)],
  ['', '', 'g', grow],
  ['', '', 'shift+g', shrink],
  ['', '', '+', () => zoom((view, place) => view.step(1, place))],
  ['', '', '=', () => zoom((view, place) => view.step(1, place))],
  ['', '', '-', () => zoom((view, place) => view.step(-1, place))],
  ...[['left', -1, 0], ['right', 1, 0], ['up', 0, -1], ['down', 0, 1]].flatMap(([name, dx, dy]) => [['', '', `arrow${name} shift+arrow${name}`, step(dx, dy)]]),
  ...[0, 1, 2, 3].map((index) => ['', '', String(index + 1), () => isAt('review') && review.vote(index)]),
]);

// Buttons

for (const button of document.querySelectorAll('[data-tool]')) button.addEventListener('click', choose(button.dataset.tool));
for (const [id, action] of Object.entries({
  undo, redo, grow, shrink, invert, clear,
  open: () => pick('file'),
  choose: () => pick('file'),
  ask: () => $('help').showModal(),
  'mask-in': () => pick('mask-file'),
  'mask-out': saveMask,
  fill: startFill,
  cancel: () => filling?.abort(),
  back: leaveByUndo,
  options: () => $('options').setAttribute('aria-expanded', document.body.classList.toggle('sheet')),
  'alert-close': hideAlert,
  'zoom-in': () => zoom((view, place) => view.step(1, place), stage.size.map((side) => side / 2)),
  'zoom-out': () => zoom((view, place) => view.step(-1, place), stage.size.map((side) => side / 2)),
  'zoom-fit': () => zoom((view) => view.fit()),
})) on(id, 'click', action);
on('file', 'change', ({ target }) => openFile(target.files[0]));
on('mask-file', 'change', ({ target }) => loadMask(target.files[0]));
on('size', 'input', showSize);
on('peek', 'pointerdown', () => peek(true));
for (const type of ['pointerup', 'pointerleave', 'pointercancel', 'blur']) on('peek', type, () => peek(false));
on('peek', 'keydown', ({ key }) => (key === ' ' || key === 'Enter') && peek(true));
on('peek', 'keyup', () => peek(false));
on('compare', 'change', ({ target }) => {
  $('second-line').hidden = !target.checked;
  // Two versions are named; the server chooses among all for one only.
  if (target.checked && !$('first').value) $('first').value = served.versions[0].version;
});

// Drop and paste

const isFiles = (event) => event.dataTransfer?.types.includes('Files');
addEventListener('dragover', (event) => {
  if (!isFiles(event)) return;
  event.preventDefault();
  $('dropping').hidden = false;
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) $('dropping').hidden = true;
});
addEventListener('drop', (event) => {
  $('dropping').hidden = true;
  if (!isFiles(event)) return;
  event.preventDefault();
  openFile(event.dataTransfer.files[0]);
});
addEventListener('paste', (event) => {
  const [file] = event.clipboardData.files;
  if (file) openFile(file);
});

// What the server has

async function readVersions() {
  const read = await getVersions();
  // A list that is open on the screen is left alone.
  if (JSON.stringify(read.versions) === JSON.stringify(served.versions)) return;
  served = { ...served, ...read };
  const { name, alias, versions, keep } = served;
  $('model').textContent = alias ? `${name} @${alias}` : name;
  $('model').hidden = false;
  const option = ({ version, roles, share }) => new Option(`${version} · ${roles.join(', ') || 'served'}${share > 0 && share < 1 ? ` · ${Math.round(100 * share)} %` : ''}`, version);
  const [first, second] = [$('first').value, $('second').value];
  $('first').replaceChildren(...(versions.length > 1 ? [new Option('automatic', '')] : []), ...versions.map(option));
  $('second').replaceChildren(...versions.map(option));
  $('compare-with').hidden = versions.length < 2;
  const has = (version) => versions.some((one) => one.version === version);
  if (has(first)) $('first').value = first;
  $('second').value = has(second) && second !== versions[0].version ? second : (versions.find(({ roles }) => roles.includes('candidate')) ?? versions.at(-1))?.version;
  // The server says the most that is kept; pictures only where the person says so.
  const most = KEEPS.indexOf(keep);
  for (const [index, one] of [...$('keep').options].entries()) one.disabled = one.hidden = index > most;
  if (!wasRead) $('keep').value = KEEPS[Math.min(most, 1)];
  wasRead = true;
}

function showSamples() {
  $('samples').hidden = !served.samples.length;
  $('samples').querySelector('ul').replaceChildren(
    ...served.samples.map((sample) => {
      const item = document.createElement('li');
      const button = document.createElement('button');
      button.append(Object.assign(new Image(), { src: at(sample.photo), alt: '' }), sample.name);
      button.addEventListener('click', () => openSample(sample));
      item.append(button);
      return item;
    }),
  );
}

editor.choose('brush');
tell('');
readVersions().then(showSamples).catch(fail);
// Versions come and go while the page is open: a candidate is opened after production, an alias is moved.
const readAgain = () => !document.hidden && readVersions().catch(() => {});
addEventListener('focus', readAgain);
setInterval(readAgain, VERSIONS_MS);
