// The server's routes. Whatever goes wrong becomes a Refusal: a sentence for the page.

/** What went wrong, and what to do. */
export class Refusal extends Error {
  constructor(sentence, remedy = '', retryAfter = 0) {
    super(sentence);
    Object.assign(this, { remedy, retryAfter });
  }
}

const AWAY = ['The server does not answer.', 'Is isnet serve still running? Nothing on this page is lost.'];

/** Address of a path of the server, wherever the page itself is. */
export const at = (path) => new URL(path.replace(/^\//, ''), document.baseURI).href;

/** The server's sentences begin small and have no full stop, as a command line has them. */
const sentence = (words) => words.replace(/^./, (first) => first.toUpperCase()).replace(/([^.!?…])$/, '$1.');

function refusal(status, text, retryAfter) {
  try {
    const { error, remedy } = JSON.parse(text);
    if (error) return new Refusal(sentence(error), sentence(remedy ?? ''), retryAfter);
  } catch {
    // No JSON: a proxy's page, or nothing.
  }
  if (status === 401) return new Refusal('This page has no valid token.', 'Open the address that isnet serve printed, again.');
  return new Refusal(`The server answered with status ${status}.`, 'Look at what isnet serve prints.', retryAfter);
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(at(path), { ...options, headers: { 'X-Requested-With': 'isnet', ...options.headers } });
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Refusal(...AWAY);
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text(), 0);
  return answer;
}

const post = (path, body) =>
  ask(path, { method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } }).then((answer) => answer.json());

export const getVersions = () => ask('v1/versions').then((answer) => answer.json());
export const getBlob = (path) => ask(path).then((answer) => answer.blob());
export const sendVerdict = (verdict) => post('v1/verdict', verdict);
export const sendGolden = (trace) => post('v1/golden', { trace });

/** Asks how a photo looks that this browser cannot show; returns its own size and a smaller PNG. */
export async function getPreview(photo) {
  const body = new FormData();
  body.append('photo', photo, photo.name);
  const answer = await ask('v1/preview', { method: 'POST', body });
  return { size: answer.headers.get('X-ISNet-Size').split('x').map(Number), blob: await answer.blob() };
}

/** Fills; tells `onSent` which share of the request has left. An aborted signal ends it with an AbortError. */
export function fill(photo, mask, fields, { signal, onSent }) {
  const form = new FormData();
  form.append('photo', photo, photo.name);
  form.append('mask', mask, 'mask.png');
  for (const [name, value] of fields) form.append(name, value);
  // fetch does not tell how much was sent.
  const request = new XMLHttpRequest();
  return new Promise((done, failed) => {
    request.open('POST', at('v1/fill'));
    request.setRequestHeader('X-Requested-With', 'isnet');
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded / total);
    request.onload = () => {
      if (request.status === 200) done(JSON.parse(request.responseText));
      else failed(refusal(request.status, request.responseText, Number(request.getResponseHeader('Retry-After'))));
    };
    request.onerror = () => failed(new Refusal(...AWAY));
    request.onabort = () => failed(new DOMException('cancelled', 'AbortError'));
    signal.addEventListener('abort', () => request.abort());
    request.send(form);
  });
}
