// One fill from the button to the answers: progress, waiting for a busy server, cancelling.

import { fill, getBlob } from './api.js';
import { megabytes, openLevels } from './photo.js';
import { encodeMask } from './png.js';

const SHOWN = /^image\/(png|jpeg|webp|avif|gif|bmp)$/;
const TRIES = 5;

let usual = 0; // seconds of the last fill here, what the bar goes by

/** Fills; tells `say(words, share or null)` how far it is. Returns the server's answer, each fill with its blob and levels. */
export async function runFill(photo, mask, fields, { signal, say }) {
  const file = await encodeMask(mask);
  for (let left = TRIES; ; left--) {
    const stop = watch(say);
    try {
      const begun = performance.now();
      const answer = await fill(photo.file, file, fields, {
        signal,
        onSent: (share) => share < 1 && say(`Sending ${megabytes(photo.file.size)}`, share / 10),
      });
      usual = (performance.now() - begun) / 1000;
      stop();
      say('Fetching the result', 0.97);
      await Promise.all(answer.fills.map(fetchFill));
      return answer;
    } catch (error) {
      stop();
      if (!error.retryAfter || left <= 1) throw error;
      await pause(error.retryAfter, signal, (seconds) => say(`The server is busy; again in ${seconds} s`, null));
    }
  }
}

/** Counts seconds; a bar only where an earlier fill says how long it may take. */
function watch(say) {
  const begun = performance.now();
  const tick = () => {
    const seconds = (performance.now() - begun) / 1000;
    const words = seconds < 1 ? 'Filling' : `Filling, ${Math.floor(seconds)} s${usual > 2 ? ` of about ${Math.ceil(usual)} s` : ''}`;
    say(words, usual > 2 ? Math.min(0.95, 0.1 + (0.85 * seconds) / usual) : null);
  };
  tick();
  const timer = setInterval(tick, 250);
  return () => clearInterval(timer);
}

async function pause(seconds, signal, onSecond) {
  for (let left = seconds; left > 0; left--) {
    onSecond(left);
    await new Promise((done) => setTimeout(done, 1000));
    if (signal.aborted) throw new DOMException('cancelled', 'AbortError');
  }
}

/** The file in the photo's own format is what is shown and saved; only where a browser cannot show it, its preview is shown. */
async function fetchFill(one) {
  one.blob = await getBlob(one.file);
  one.levels = await openLevels(SHOWN.test(one.media_type) ? one.blob : await getBlob(one.preview));
}
