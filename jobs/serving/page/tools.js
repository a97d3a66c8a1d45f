// What each tool does to the mask between putting it down and lifting it.

/** Makers of strokes: `to` takes further points of the photo and draws; nothing is committed. */
const MAKERS = {
  brush(mask, value, radius) {
    let last = null;
    return (points) => {
      for (const point of points) {
        mask.piece(last ?? point, point, radius, value);
        last = point;
      }
    };
  },
  // Box and lasso change as a whole: they are taken back before they are drawn again.
  box(mask, value) {
    let corner = null;
    return (points) => {
      corner ??= points[0];
      const old = mask.rollback();
      mask.rectangle(corner, points.at(-1), value);
      return old;
    };
  },
  lasso(mask, value) {
    const line = [];
    return (points) => {
      line.push(...points);
      const old = mask.rollback();
      if (line.length > 2) mask.polygon(line, value);
      return old;
    };
  },
  bucket(mask, value) {
    let isDone = false;
    return ([point]) => {
      if (!isDone) mask.flood(point, value);
      isDone = true;
    };
  },
};

/** Begins a stroke; what it returns draws to further points, and returns the box to show again. */
export function beginStroke(tool, mask, isErasing, radius) {
  const isEraser = tool === 'eraser';
  const to = MAKERS[isEraser ? 'brush' : tool](mask, isErasing || isEraser ? 0 : 1, radius);
  return (points) => union(to(points), mask.box);
}

export function union(one, other) {
  if (!one || !other) return one ?? other;
  return [Math.min(one[0], other[0]), Math.min(one[1], other[1]), Math.max(one[2], other[2]), Math.max(one[3], other[3])];
}
