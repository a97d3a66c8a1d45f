// The hole: one byte a pixel at the photo's own size, 1 in the hole.

/** Hole of a photo. Shapes are drawn into `pixels`; `commit` makes a patch of them, which undoes and redoes. */
export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.pixels = new Uint8Array(width * height);
    this.saved = new Uint8Array(width * height); // as of the last commit
    this.count = 0; // pixels of the hole, as of the last commit
    this.box = null; // what was drawn on since then: [left, top, right, bottom), whole pixels
  }

  /** Fills a run of one row, [from, to). */
  run(y, from, to, value) {
    from = Math.max(0, from);
    to = Math.min(this.width, to);
    if (y < 0 || y >= this.height || from >= to) return;
    this.pixels.fill(value, y * this.width + from, y * this.width + to);
    this.#touch(from, y, to, y + 1);
  }

  /** Draws a straight piece of a stroke: all pixels whose centre is within `radius` of it, and those of its ends.
   *  No soft edges, so pieces drawn one by one are the same as the whole stroke drawn at once. */
  piece([x0, y0], [x1, y1], radius, value) {
    const length = Math.hypot(x1 - x0, y1 - y0) || 1;
    const nx = ((y0 - y1) / length) * radius;
    const ny = ((x1 - x0) / length) * radius;
    const quad = [[x0 + nx, y0 + ny], [x1 + nx, y1 + ny], [x1 - nx, y1 - ny], [x0 - nx, y0 - ny]];
    const last = Math.min(this.height - 1, Math.floor(Math.max(y0, y1) + radius));
    for (let y = Math.max(0, Math.floor(Math.min(y0, y1) - radius)); y <= last; y++) {
      const centre = y + 0.5;
      let left = Infinity;
      let right = -Infinity;
      for (const [x, cy] of [[x0, y0], [x1, y1]]) {
        const half = Math.sqrt(radius * radius - (centre - cy) ** 2);
        if (half >= 0) [left, right] = [Math.min(left, x - half), Math.max(right, x + half)];
      }
      for (const [x] of crossings(quad, centre)) [left, right] = [Math.min(left, x), Math.max(right, x)];
      if (left <= right) this.run(y, Math.ceil(left - 0.5), Math.floor(right - 0.5) + 1, value);
    }
    for (const [x, y] of [[x0, y0], [x1, y1]]) this.run(Math.floor(y), Math.floor(x), Math.floor(x) + 1, value);
  }

  /** Draws a box between two points; the pixels of both belong to it. */
  rectangle([x0, y0], [x1, y1], value) {
    const last = Math.min(this.height - 1, Math.floor(Math.max(y0, y1)));
    for (let y = Math.max(0, Math.floor(Math.min(y0, y1))); y <= last; y++) {
      this.run(y, Math.floor(Math.min(x0, x1)), Math.floor(Math.max(x0, x1)) + 1, value);
    }
  }

  /** Fills a closed line; where it crosses itself, all of its loops. */
  polygon(points, value) {
    const ys = points.map(([, y]) => y);
    const first = Math.max(0, Math.floor(Math.min(...ys)));
    const rows = Array.from({ length: Math.max(0, Math.min(this.height - 1, Math.floor(Math.max(...ys))) - first + 1) }, () => []);
    points.forEach((from, index) => {
      const to = points[(index + 1) % points.length];
      const top = Math.max(first, Math.ceil(Math.min(from[1], to[1]) - 0.5));
      const end = Math.min(first + rows.length - 1, Math.floor(Math.max(from[1], to[1])));
      for (let y = top; y <= end; y++) rows[y - first].push(...crossings([from, to], y + 0.5, true));
    });
    rows.forEach((row, index) => {
      let winding = 0;
      row.sort((a, b) => a[0] - b[0]).forEach(([x, turn], place) => {
        winding += turn;
        if (winding) this.run(first + index, Math.ceil(x - 0.5), Math.floor(row[place + 1][0] - 0.5) + 1, value);
      });
    });
  }

  /** Fills the area around a point that has the other value, up to the hole's border. */
  flood([px, py], value) {
    const { width, height, pixels } = this;
    const stack = [[Math.floor(px), Math.floor(py)]];
    const isOpen = (x, y) => x >= 0 && y >= 0 && x < width && y < height && pixels[y * width + x] !== value;
    while (stack.length) {
      const [x, y] = stack.pop();
      if (!isOpen(x, y)) continue;
      let left = x;
      let right = x + 1;
      while (isOpen(left - 1, y)) left--;
      while (isOpen(right, y)) right++;
      this.run(y, left, right, value);
      for (const next of [y - 1, y + 1]) {
        for (let at = left; at < right; at++) if (isOpen(at, next) && !isOpen(at - 1, next)) stack.push([at, next]);
        // A run may begin left of ours.
        if (isOpen(left, next) && isOpen(left - 1, next)) stack.push([left, next]);
      }
    }
  }

  /** Widens the hole by all pixels within `radius` of it; with 0 for `value`, what is no hole. */
  grow(radius, value = 1) {
    const halves = Array.from({ length: radius + 1 }, (_, dy) => Math.floor(Math.sqrt(radius * radius - dy * dy)));
    for (let y = 0; y < this.height; y++) {
      for (const [from, to] of this.#runs(y, value)) {
        for (let dy = -radius; dy <= radius; dy++) {
          this.run(y + dy, from - halves[Math.abs(dy)], to + halves[Math.abs(dy)], value);
        }
      }
    }
  }

  invert() {
    for (let place = 0; place < this.pixels.length; place++) this.pixels[place] ^= 1;
    this.#touch(0, 0, this.width, this.height);
  }

  fill(value) {
    this.pixels.fill(value);
    this.#touch(0, 0, this.width, this.height);
  }

  /** Takes the pixels of another mask of this size. */
  load(pixels) {
    this.pixels.set(pixels);
    this.#touch(0, 0, this.width, this.height);
  }

  /** Takes back what was drawn since the last commit; returns the box of it. */
  rollback() {
    const box = this.box;
    this.box = null;
    if (!box) return null;
    const [left, top, right, bottom] = box;
    for (let y = top; y < bottom; y++) {
      const row = y * this.width;
      this.pixels.set(this.saved.subarray(row + left, row + right), row + left);
    }
    return box;
  }

  /** Keeps what was drawn; returns its patch {box, bits, gain}, or null where nothing changed. */
  commit() {
    if (!this.box) return null;
    const [left, top, right, bottom] = this.box;
    const bits = new Uint8Array(Math.ceil(((right - left) * (bottom - top)) / 8));
    let bit = 0;
    let changed = 0;
    let gain = 0;
    for (let y = top; y < bottom; y++) {
      for (let place = y * this.width + left, end = y * this.width + right; place < end; place++, bit++) {
        if (this.pixels[place] === this.saved[place]) continue;
        bits[bit >> 3] |= 1 << (bit & 7);
        changed++;
        gain += this.pixels[place] ? 1 : -1;
        this.saved[place] = this.pixels[place];
      }
    }
    const patch = { box: this.box, bits, gain };
    this.box = null;
    this.count += gain;
    return changed ? patch : null;
  }

  /** Undoes a patch, or does it again; returns its box. */
  toggle(patch, sign) {
    const [left, top, right, bottom] = patch.box;
    let bit = 0;
    for (let y = top; y < bottom; y++) {
      for (let place = y * this.width + left, end = y * this.width + right; place < end; place++, bit++) {
        if (patch.bits[bit >> 3] & (1 << (bit & 7))) this.saved[place] = this.pixels[place] ^= 1;
      }
    }
    this.count += sign * patch.gain;
    return patch.box;
  }

  /** Runs of a value in a row of the last commit, each [from, to). */
  #runs(y, value) {
    const runs = [];
    const start = y * this.width;
    const row = this.saved.subarray(start, start + this.width);
    for (let from = row.indexOf(value); from >= 0; ) {
      const end = row.indexOf(1 - value, from);
      runs.push([from, end < 0 ? this.width : end]);
      from = end < 0 ? -1 : row.indexOf(value, end);
    }
    return runs;
  }

  #touch(left, top, right, bottom) {
    const box = this.box;
    if (!box) this.box = [left, top, right, bottom];
    else this.box = [Math.min(box[0], left), Math.min(box[1], top), Math.max(box[2], right), Math.max(box[3], bottom)];
  }
}

/** Where lines cross the height `y`, each [x, 1 downwards or -1 upwards]; of a closed line unless `open`. */
function crossings(points, y, open = false) {
  const found = [];
  for (let index = open ? 1 : 0; index < points.length; index++) {
    const [x0, y0] = points[(index || points.length) - 1];
    const [x1, y1] = points[index];
    if (y0 <= y === y1 <= y) continue;
    found.push([x0 + ((y - y0) / (y1 - y0)) * (x1 - x0), y1 > y0 ? 1 : -1]);
  }
  return found;
}
