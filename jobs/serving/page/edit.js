// Painting: tools at work on the mask, each stroke a step of the history.

import { beginStroke } from './tools.js';

const $ = (id) => document.getElementById(id);

/** Paints on the stage's mask. */
export class Editor {
  constructor(stage, history, tell) {
    Object.assign(this, { stage, history, tell, tool: 'brush', stroke: null });
    // The point of the keyboard, in pixels of the photo; null while a pointer is used.
    this.point = null;
  }

  /** Half the brush's width, in pixels of the photo. */
  get radius() {
    const { width, height } = this.stage.photo;
    return Math.max(1, Math.max(width, height) * 0.001 * 250 ** ($('size').value / 100)) / 2;
  }

  choose(tool) {
    this.cancel();
    this.tool = tool;
    for (const button of document.querySelectorAll('[data-tool]')) button.setAttribute('aria-pressed', button.dataset.tool === tool);
    this.stage.root.dataset.tool = tool;
    this.tell(`${document.querySelector(`[data-tool=${tool}]`).textContent} chosen.`);
  }

  begin(points, isErasing) {
    this.stroke = beginStroke(this.tool, this.stage.mask, isErasing, this.radius);
    this.stage.refresh(this.stroke(points));
  }

  move(points) {
    const box = this.stroke?.(points);
    if (box) this.stage.refresh(box);
  }

  end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.#keep();
  }

  /** Takes back a stroke that has not ended. */
  cancel() {
    if (!this.stroke) return false;
    this.stroke = null;
    const box = this.stage.mask.rollback();
    if (box) this.stage.refresh(box);
    return true;
  }

  /** Changes the mask by a function of it, as one step. */
  change(how) {
    if (!this.stage.mask || this.stage.answers) return;
    this.cancel();
    how(this.stage.mask);
    if (!this.#keep()) this.tell('Nothing changed.');
  }

  #keep() {
    const { stage } = this;
    const { mask } = stage;
    const patch = mask.commit();
    if (!patch) return false;
    stage.refresh(patch.box);
    const turn = (sign) => () => {
      stage.refresh(mask.toggle(patch, sign));
      this.report();
    };
    this.history.add({ undo: turn(-1), redo: turn(1), bytes: patch.bits.length });
    this.report();
    return true;
  }

  /** Says how large the hole is. */
  report() {
    const { mask } = this.stage;
    const share = (100 * mask.count) / (mask.width * mask.height);
    const words = !mask.count ? 'nothing painted' : `${share < 0.1 ? '< 0.1' : share.toFixed(1)} % of ${mask.width} × ${mask.height}`;
    $('hole').textContent = words;
    this.tell(mask.count ? `The hole is ${words} pixels.` : 'Nothing is painted.');
    $('fill').classList.toggle('ready', mask.count > 0);
  }
}
