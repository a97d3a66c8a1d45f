// What is to be seen: the photo with its hole, or answers beside each other.

import { Painter } from './draw.js';
import { union } from './tools.js';
import { View } from './view.js';

const $ = (id) => document.getElementById(id);
const BLINK_MS = 700;
// Covered by the buttons that choose how answers are looked at.
const FOOT = 44;

/** The stage. Change `photo`, `mask`, `answers` and `mode`, then `refresh`. */
export class Stage {
  constructor() {
    Object.assign(this, { root: $('stage'), view: new View(), photo: null, mask: null, answers: null });
    Object.assign(this, { mode: 'one:1', split: 0.5, isPeeking: false, blinkSide: 0, size: [1, 1] });
    this.painter = new Painter($('photo'), $('overlay'));
    this.waiting = null; // what the next frame draws: {pictures, hole: true or a box}
    new ResizeObserver(() => this.resize()).observe(this.root);
    setInterval(() => {
      if (!this.answers || this.mode !== 'blink') return;
      this.blinkSide = 1 - this.blinkSide;
      this.refresh();
    }, BLINK_MS);
  }

  resize() {
    const { clientWidth, clientHeight } = this.root;
    if (!clientWidth || !this.photo) return;
    this.size = [clientWidth, clientHeight];
    this.painter.resize(this.size, window.devicePixelRatio || 1);
    this.#lay();
    // At once: a canvas that was resized is empty.
    this.#draw({ pictures: true, hole: true });
  }

  /** Shows a photo as a whole. */
  open(photo, mask) {
    Object.assign(this, { photo, mask, answers: null, isPeeking: false });
    this.view.isFit = true;
    this.resize();
  }

  /** Chooses how answers are looked at: 'one:0', 'one:1', 'slider', 'side' or 'blink'. */
  look(mode) {
    this.mode = mode;
    this.#lay();
    this.refresh();
  }

  /** The two things compared, each {name, levels}. */
  pair() {
    const [first, second] = this.answers;
    if (second) return [first, second].map(({ label, levels }) => ({ name: label, levels }));
    return [{ name: 'Original', levels: this.photo.levels }, { name: 'Filled', levels: first.levels }];
  }

  /** Draws with the next frame: everything, or with a box of the photo that part of the hole. */
  refresh(box = null) {
    if (!this.waiting) requestAnimationFrame(() => this.#draw(this.waiting));
    this.waiting ??= { pictures: false, hole: null };
    if (!box) Object.assign(this.waiting, { pictures: true, hole: true });
    else if (this.waiting.hole !== true) this.waiting.hole = union(this.waiting.hole, box);
  }

  /** Tells the view how large one pane is. */
  #lay() {
    if (!this.photo) return;
    const [width, height] = this.size;
    const isSide = this.answers && this.mode === 'side';
    this.isBeside = width >= height;
    const pane = !isSide ? this.size : this.isBeside ? [width / 2, height] : [width, height / 2];
    this.view.resize([this.photo.width, this.photo.height], pane, this.answers ? FOOT : 0);
  }

  /** Point of the pane under a point of the stage. */
  inPane([x, y]) {
    const [width, height] = this.view.pane;
    return [x >= width ? x - width : x, y >= height ? y - height : y];
  }

  #draw(what) {
    this.waiting = null;
    if (!this.photo) return;
    const { view, painter } = this;
    if (what.pictures) painter.pictures(this.#panes(), view);
    if (this.answers || this.isPeeking) painter.clearHole();
    else if (what.hole) painter.hole(this.mask, view, what.hole === true ? null : what.hole);
    if (what.pictures) this.#label();
  }

  #panes() {
    const [width, height] = this.size;
    const whole = { clip: [0, 0, width, height], shift: [0, 0] };
    if (!this.answers || this.isPeeking) return [{ levels: this.photo.levels, ...whole }];
    const [first, second] = this.pair();
    if (this.mode === 'slider') {
      const at = this.split * width;
      return [{ levels: first.levels, clip: [0, 0, at, height], shift: [0, 0] }, { levels: second.levels, clip: [at, 0, width, height], shift: [0, 0] }];
    }
    if (this.mode === 'side') {
      const [w, h] = this.view.pane;
      const shift = this.isBeside ? [w, 0] : [0, h];
      return [{ levels: first.levels, clip: [0, 0, w, h], shift: [0, 0] }, { levels: second.levels, clip: [...shift, width, height], shift }];
    }
    const side = this.mode === 'blink' ? this.blinkSide : Number(this.mode.at(-1));
    return [{ levels: [first, second][side].levels, ...whole }];
  }

  #label() {
    const [left, right, divider] = [$('tag-left'), $('tag-right'), $('divider')];
    const isPair = this.answers && !this.isPeeking && (this.mode === 'slider' || this.mode === 'side');
    left.hidden = !this.answers && !this.isPeeking;
    right.hidden = divider.hidden = !isPair;
    if (!left.hidden) {
      const [first, second] = this.answers ? this.pair() : [{}, {}];
      const side = this.mode === 'blink' ? this.blinkSide : Number(this.mode.at(-1));
      left.textContent = this.isPeeking ? 'Original' : isPair ? first.name : [first, second][side].name;
      right.textContent = second.name;
    }
    const isStacked = this.mode === 'side' && !this.isBeside;
    this.root.classList.toggle('stacked', Boolean(isPair && isStacked));
    this.root.classList.toggle('splits', Boolean(isPair && this.mode === 'slider'));
    divider.style.left = isStacked ? '0' : `${this.mode === 'slider' ? this.split * this.size[0] : this.size[0] / 2}px`;
    $('zoom-fit').textContent = `${percent(this.view.scale)} %`;
    $('zoom-fit').setAttribute('aria-label', `${percent(this.view.scale)} percent; fit into the window`);
  }
}

function percent(scale) {
  return scale < 0.1 ? (100 * scale).toFixed(1) : Math.round(100 * scale);
}
