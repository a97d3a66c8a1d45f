// Where the photo lies on the screen: numbers only.

const STEPS = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32];
const MARGIN = 16;

/** Place and scale of a photo in a pane; all lengths in CSS pixels. */
export class View {
  constructor() {
    Object.assign(this, { scale: 1, x: 0, y: 0, isFit: true, photo: [1, 1], pane: [1, 1], foot: 0 });
  }

  /** Tells the sizes of photo and pane, whose lowest `foot` pixels are covered; a photo that filled the pane goes on to. */
  resize(photo, pane, foot) {
    const moved = [(pane[0] - this.pane[0]) / 2, (pane[1] - this.pane[1]) / 2];
    Object.assign(this, { photo, pane, foot });
    if (this.isFit) this.fit();
    else this.pan(...moved);
  }

  fit() {
    const [width, height] = this.photo;
    const [wide, high] = [this.pane[0], this.pane[1] - this.foot];
    const room = [wide, high].map((side) => Math.max(1, side - 2 * MARGIN));
    this.scale = Math.min(room[0] / width, room[1] / height, 8);
    this.x = (wide - width * this.scale) / 2;
    this.y = (high - height * this.scale) / 2;
    this.isFit = true;
  }

  /** Changes the scale; what is at the point stays there. */
  zoomTo(scale, [px, py]) {
    scale = Math.min(Math.max(scale, Math.min(STEPS[0], this.scale)), STEPS.at(-1));
    const factor = scale / this.scale;
    this.x = px - (px - this.x) * factor;
    this.y = py - (py - this.y) * factor;
    this.scale = scale;
    this.isFit = false;
    this.pan(0, 0);
  }

  /** Goes to the next larger or smaller of the usual scales. */
  step(direction, point) {
    const next = direction > 0 ? STEPS.find((step) => step > this.scale * 1.001) : STEPS.findLast((step) => step < this.scale * 0.999);
    if (next) this.zoomTo(next, point);
  }

  /** Moves the photo; a part of it stays in sight. */
  pan(dx, dy) {
    if (dx || dy) this.isFit = false;
    const keep = 48;
    const within = (place, size, room) => Math.min(Math.max(place, keep - size), room - keep);
    this.x = within(this.x + dx, this.photo[0] * this.scale, this.pane[0]);
    this.y = within(this.y + dy, this.photo[1] * this.scale, this.pane[1]);
  }

  /** Converts a point of the pane to one of the photo, in pixels with fractions. */
  toPhoto([px, py]) {
    return [(px - this.x) / this.scale, (py - this.y) / this.scale];
  }

  toPane([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }
}
