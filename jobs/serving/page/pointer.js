// Mouse, pen, fingers and wheel become strokes, moves and zooms.

/** Listens on the stage. `on` has begin(point, isErasing), move(points), end(), cancel(), hover(point or null), pan(dx, dy),
 *  zoom(factor, point) and grabs(point): 'pan', 'split' or 'draw', what the main button does there. Points are of the stage. */
export function listen(stage, on) {
  const fingers = new Map();
  let action = null; // 'draw', 'split', 'pan' or 'pinch'
  let last = null;
  const pointOf = ({ clientX, clientY }) => {
    const { left, top } = stage.getBoundingClientRect();
    return [clientX - left, clientY - top];
  };
  const middle = () => {
    const [a, b] = [...fingers.values()];
    return { point: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], distance: Math.hypot(a[0] - b[0], a[1] - b[1]) };
  };

  stage.addEventListener('pointerdown', (event) => {
    if (event.target.closest('button')) return;
    event.preventDefault();
    stage.focus({ preventScroll: true });
    const point = pointOf(event);
    const isTouch = event.pointerType === 'touch';
    if (isTouch) fingers.set(event.pointerId, point);
    if (fingers.size === 2) {
      // The second finger says that the first one did not mean to paint.
      if (action === 'draw') on.cancel();
      [action, last] = ['pinch', middle()];
    }
    if (action || fingers.size > 1) return;
    stage.setPointerCapture(event.pointerId);
    last = point;
    action = event.button === 1 ? 'pan' : on.grabs(point);
    if (action === 'draw') on.begin(point, event.button === 2 || event.button === 5);
    if (!isTouch) on.hover(point);
  });

  stage.addEventListener('pointermove', (event) => {
    const point = pointOf(event);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, point);
    if (action === 'pinch' && fingers.size >= 2) {
      const now = middle();
      on.pan(now.point[0] - last.point[0], now.point[1] - last.point[1]);
      on.zoom(now.distance / last.distance, now.point);
      last = now;
      return;
    }
    if (event.pointerType !== 'touch') on.hover(point);
    if (action === 'pan') on.pan(point[0] - last[0], point[1] - last[1]);
    if (action === 'split') on.split(point);
    // Browsers leave getCoalescedEvents out on plain http.
    if (action === 'draw') on.move((event.getCoalescedEvents?.() ?? []).map(pointOf).concat([point]));
    last = point;
  });

  const lift = (event) => {
    fingers.delete(event.pointerId);
    if (action === 'pinch') {
      if (!fingers.size) action = null;
      return;
    }
    if (action === 'draw') event.type === 'pointerup' ? on.end() : on.cancel();
    action = null;
  };
  stage.addEventListener('pointerup', lift);
  stage.addEventListener('pointercancel', lift);
  stage.addEventListener('pointerleave', () => on.hover(null));
  stage.addEventListener('contextmenu', (event) => event.preventDefault());
  stage.addEventListener(
    'wheel',
    (event) => {
      event.preventDefault();
      // A pinch on a touchpad comes as a wheel with Ctrl, in small steps; a line of a mouse wheel is about 40 pixels.
      const pixels = event.deltaY * (event.deltaMode === 1 ? 40 : 1);
      on.zoom(Math.exp(-Math.max(-200, Math.min(200, pixels)) * (event.ctrlKey ? 0.01 : 0.002)), pointOf(event));
    },
    { passive: false },
  );
}
