// Draws photos and the hole on the stage's two canvases.

// Bytes are red, green, blue, alpha; the number is read the other way round.
const INSIDE = 0x73_5a_1e_f5;
const LIGHT = 0xff_ff_ff_ff;
const DARK = 0xff_46_0a_b4;

/** Two canvases of the stage's size: photos below, the hole above, so that a stroke redraws no photo. */
export class Painter {
  constructor(photo, overlay) {
    Object.assign(this, { photo, overlay, ratio: 1, size: [0, 0] });
  }

  /** Takes the stage's size in CSS pixels. */
  resize(size, ratio) {
    Object.assign(this, { size, ratio });
    for (const canvas of [this.photo, this.overlay]) {
      canvas.width = Math.max(1, Math.round(size[0] * ratio));
      canvas.height = Math.max(1, Math.round(size[1] * ratio));
    }
  }

  /** Draws pictures {levels, clip: [left, top, right, bottom], shift: [x, y]}, all in one view. */
  pictures(pictures, view) {
    const context = this.photo.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.photo.width, this.photo.height);
    for (const { levels, clip, shift } of pictures) {
      const [left, top, right, bottom] = clip.map((place) => Math.round(place * this.ratio));
      if (right <= left || bottom <= top) continue;
      const shown = view.photo[0] * view.scale * this.ratio;
      const level = levels.findLast((copy) => copy.width >= shown) ?? levels[0];
      // Only what is in sight: at 32 times, a whole photo is wider than canvases count exactly.
      const of = (place, axis) => (place / this.ratio - shift[axis] - (axis ? view.y : view.x)) / view.scale;
      const [x0, y0] = [Math.max(0, Math.floor(of(left, 0))), Math.max(0, Math.floor(of(top, 1)))];
      const [x1, y1] = [Math.min(view.photo[0], Math.ceil(of(right, 0))), Math.min(view.photo[1], Math.ceil(of(bottom, 1)))];
      if (x1 <= x0 || y1 <= y0) continue;
      const [kx, ky] = [level.width / view.photo[0], level.height / view.photo[1]];
      context.save();
      context.beginPath();
      context.rect(left, top, right - left, bottom - top);
      context.clip();
      context.scale(this.ratio, this.ratio);
      context.translate(view.x + shift[0], view.y + shift[1]);
      context.scale(view.scale, view.scale);
      context.imageSmoothingEnabled = view.scale * this.ratio < 2 * kx;
      context.drawImage(level, x0 * kx, y0 * ky, (x1 - x0) * kx, (y1 - y0) * ky, x0, y0, x1 - x0, y1 - y0);
      context.restore();
    }
  }

  /** Draws the part of the hole in a box of the photo, all of it for null. */
  hole(mask, view, box) {
    const context = this.overlay.getContext('2d');
    const { width, height } = this.overlay;
    const scale = view.scale * this.ratio;
    const [ox, oy] = [view.x * this.ratio, view.y * this.ratio];
    const [left, top, right, bottom] = box
      ? [box[0] * scale + ox - 2, box[1] * scale + oy - 2, box[2] * scale + ox + 2, box[3] * scale + oy + 2]
      : [0, 0, width, height];
    const [x0, y0] = [Math.max(0, Math.floor(left)), Math.max(0, Math.floor(top))];
    const [x1, y1] = [Math.min(width, Math.ceil(right)), Math.min(height, Math.ceil(bottom))];
    if (x1 <= x0 || y1 <= y0) return;
    const image = new ImageData(x1 - x0, y1 - y0);
    const out = new Uint32Array(image.data.buffer);
    // Which pixel of the photo each column shows, one more on the left; -1 beside the photo.
    const columns = Int32Array.from({ length: x1 - x0 + 1 }, (_, index) => {
      const x = Math.floor((x0 + index - 0.5 - ox) / scale);
      return x >= 0 && x < mask.width ? x : -1;
    });
    const none = new Uint8Array(mask.width);
    const row = (y) => {
      const own = Math.floor((y + 0.5 - oy) / scale);
      return own >= 0 && own < mask.height ? mask.pixels.subarray(own * mask.width, (own + 1) * mask.width) : none;
    };
    let above = row(y0 - 1);
    for (let y = y0, place = 0; y < y1; y++) {
      const here = row(y);
      let before = columns[0] < 0 ? 0 : here[columns[0]];
      for (let index = 1; index < columns.length; index++, place++) {
        const x = columns[index];
        const value = x < 0 ? 0 : here[x];
        const isEdge = value !== before || value !== (x < 0 ? 0 : above[x]);
        if (isEdge) out[place] = (x0 + index + y) & 4 ? LIGHT : DARK;
        else if (value) out[place] = INSIDE;
        before = value;
      }
      above = here;
    }
    context.putImageData(image, x0, y0);
  }

  clearHole() {
    this.overlay.getContext('2d').clearRect(0, 0, this.overlay.width, this.overlay.height);
  }
}
