// Undo and redo. A step is {undo, redo, bytes}: a stroke, a fill, or another photo.

const MOST_BYTES = 3e8;

export class History {
  constructor(onChange) {
    this.onChange = onChange;
    this.reset();
  }

  reset() {
    Object.assign(this, { done: [], undone: [] });
    this.onChange(this);
  }

  /** Adds a step that has been done. */
  add(step) {
    this.undone = [];
    this.done.push(step);
    let bytes = this.done.reduce((sum, { bytes }) => sum + bytes, 0);
    while (bytes > MOST_BYTES && this.done.length > 1) bytes -= this.done.shift().bytes;
    this.onChange(this);
  }

  undo() {
    const step = this.done.pop();
    if (!step) return;
    this.undone.push(step);
    step.undo();
    this.onChange(this);
  }

  redo() {
    const step = this.undone.pop();
    if (!step) return;
    this.done.push(step);
    step.redo();
    this.onChange(this);
  }
}
