// The panel beside answers: vote, reveal, download, go on.

import { sendGolden, sendVerdict } from './api.js';

const $ = (id) => document.getElementById(id);
const VOTES = {
  2: [['A', 'A is better'], ['B', 'B is better'], ['tie', 'No difference'], ['neither', 'Both are bad']],
  1: [['good', 'Good'], ['bad', 'Bad']],
};
const SUFFIXES = { 'image/jpeg': 'jpg', 'image/tiff': 'tif', 'image/jp2': 'jp2', 'image/x-portable-anymap': 'pnm' };

const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/** Panel for one answer of the server: {trace, fills, isBlind, keep, verdict, reveal}. */
export class Review {
  /** `on` has tell(words), fail(error), versions() and goOn(fill). */
  constructor(stage, on) {
    Object.assign(this, { stage, on, answer: null });
    $('golden').addEventListener('click', () => this.#golden());
  }

  show(answer, photoName) {
    Object.assign(this, { answer, photoName });
    const isPair = answer.fills.length > 1;
    const singles = isPair ? [['one:0', 'A'], ['one:1', 'B']] : [['one:1', 'Filled']];
    const modes = [...singles, ['slider', 'Slider'], ['side', 'Side by side'], ['blink', 'Blink']];
    this.modes = modes.map(([mode]) => mode);
    $('modes').replaceChildren(
      ...modes.map(([mode, words]) => make('button', { textContent: words, title: `${words} (V: next)`, onclick: () => this.look(mode), value: mode })),
    );
    $('modes').hidden = false;
    $('comment').value = '';
    $('golden').hidden = answer.keep !== 'pictures';
    $('golden').disabled = answer.isGolden ?? false;
    this.#buttons();
    this.render();
    this.look(isPair ? 'slider' : 'one:1');
  }

  look(mode) {
    for (const button of $('modes').children) button.setAttribute('aria-pressed', button.value === mode);
    this.stage.look(mode);
  }

  /** Goes to the next way of looking. */
  lookNext() {
    this.look(this.modes[(this.modes.indexOf(this.stage.mode) + 1) % this.modes.length]);
  }

  /** Writes what is known: before and after the vote. */
  render() {
    const { fills, isBlind, verdict, notes } = this.answer;
    const isPair = fills.length > 1;
    $('question').textContent = verdict ? 'Thank you' : isPair ? 'Which is better?' : 'Is it good?';
    const sealed = isBlind && isPair && !verdict;
    $('question-help').textContent = verdict
      ? `Recorded: ${VOTES[fills.length].find(([choice]) => choice === verdict)[1]}.`
      : sealed
        ? 'You are told which version was which after your vote.'
        : 'Your vote counts when versions are promoted.';
    $('votes').replaceChildren(
      ...VOTES[fills.length].map(([choice, words], index) =>
        make('button', { disabled: Boolean(verdict), ariaPressed: verdict === choice, onclick: () => this.vote(index) }, words, ' ', make('kbd', { textContent: index + 1 })),
      ),
    );
    $('votes').hidden = $('comment').hidden = Boolean(verdict);
    $('facts').replaceChildren(...(sealed ? [] : fills.map((one) => this.#card(one, isPair))));
    $('facts').hidden = sealed;
    const unique = [...new Set(fills.flatMap((one) => one.notes ?? []).concat(notes ?? []))];
    $('notes').replaceChildren(...unique.map((note) => make('li', { textContent: note })));
  }

  /** Sends the vote of the given place. */
  async vote(index) {
    const { answer } = this;
    const choice = VOTES[answer?.fills.length]?.[index]?.[0];
    if (!choice || answer.verdict || answer.isVoting) return;
    answer.isVoting = true;
    try {
      const field = answer.fills.length > 1 ? { choice } : { rating: choice };
      const { reveal } = await sendVerdict({ trace: answer.trace, ...field, comment: $('comment').value.trim() || undefined });
      Object.assign(answer, { verdict: choice, reveal });
      if (this.answer === answer) this.render();
      this.on.tell(`Recorded. ${answer.fills.map((one) => this.#known(one).words).join('. ')}`);
    } catch (error) {
      this.on.fail(error);
    } finally {
      answer.isVoting = false;
    }
  }

  /** What is known of one fill, by the vote, the answer and the list of versions. */
  #known(one) {
    const facts = { ...one, ...this.answer.reveal?.[one.label] };
    const listed = this.on.versions().find(({ version }) => version === facts.version);
    const gates = facts.gates ?? listed?.gates;
    const roles = listed?.roles ?? [];
    const words = `${this.answer.fills.length > 1 ? `${one.label} is version` : 'Version'} ${facts.version}${roles.length ? `, ${roles.join(', ')}` : ''}`;
    return { ...facts, gates, roles, words };
  }

  #card(one, isPair) {
    const { version, digest, milliseconds, gates, roles } = this.#known(one);
    const rows = [['time', milliseconds == null ? null : duration(milliseconds)]];
    if (gates) rows.push(['gates', gates.failed.length ? `failed: ${gates.failed.join(', ')}` : `${gates.passed} passed, none failed`]);
    if (digest) rows.push(['digest', make('code', { textContent: digest.replace(/^sha256:/, '').slice(0, 12), title: digest })]);
    return make(
      'div',
      { className: 'card' },
      make('h3', {}, ...(isPair ? [make('b', { className: 'letter', textContent: one.label })] : []), `Version ${version ?? '?'}`, ...roles.map((role) => make('span', { className: `chip ${role}`, textContent: role }))),
      make('dl', {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [make('dt', { textContent: name }), make('dd', {}, value)])),
    );
  }

  #buttons() {
    const { fills } = this.answer;
    const named = (words, one) => (fills.length > 1 ? `${words} ${one.label}` : words);
    $('downloads').replaceChildren(
      ...fills.map((one) => make('button', { textContent: named('Download', one), title: 'In the photo’s own format (S)', onclick: () => this.download(one) })),
    );
    $('next').replaceChildren(
      ...fills.map((one) => make('button', { textContent: named('Go on with', one) + (fills.length > 1 ? '' : ' this'), title: 'Paint the next hole on this result', onclick: () => this.on.goOn(one) })),
    );
  }

  /** Saves a fill in the photo's own format. */
  download(one = this.answer.fills[Math.min(Number(this.stage.mode.at(-1)) || 0, this.answer.fills.length - 1)]) {
    const label = this.answer.fills.length > 1 ? `-${one.label}` : '';
    const suffix = SUFFIXES[one.media_type] ?? one.media_type.split('/')[1];
    save(one.blob, `${this.photoName.replace(/\.\w+$/, '')}-filled${label}.${suffix}`);
  }

  async #golden() {
    const { answer } = this;
    try {
      await sendGolden(answer.trace);
      answer.isGolden = $('golden').disabled = true;
      this.on.tell('Added to the golden set.');
    } catch (error) {
      this.on.fail(error);
    }
  }
}

export function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** Hands a file to the person. */
export function save(blob, name) {
  const link = make('a', { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
