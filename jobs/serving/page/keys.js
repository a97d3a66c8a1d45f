// Keys, and the sheet that tells them: one table for both.

/** Listens for keys. Rows are [group, words, keys, action]; keys as in 'ctrl+shift+z' or '?'; an action may return false: not mine.
 *  A row without keys to press is only told. Keys without Ctrl are left alone where one writes or chooses. */
export function listenKeys(rows) {
  const actions = new Map(rows.flatMap(([, , keys, action]) => (action ? keys.split(' ').map((key) => [key, action]) : [])));
  document.addEventListener('keydown', (event) => {
    const key = event.key === ' ' ? 'space' : event.key.toLowerCase();
    const isCommand = event.ctrlKey || event.metaKey;
    const isWriting = event.target.matches('input:not([type=checkbox]):not([type=range]), select, textarea');
    if (document.querySelector('dialog[open]') || (isWriting && !(isCommand && key === 'enter'))) return;
    // Shift is part of signs such as ? and +.
    const shift = event.shiftKey && (key.length > 1 || /[a-z]/.test(key)) ? 'shift+' : '';
    const action = actions.get((isCommand ? 'ctrl+' : '') + shift + key);
    if (action && action(event) !== false) event.preventDefault();
  });
}

/** Writes the table into the help sheet. */
export function tellKeys(rows, sheet) {
  const groups = Map.groupBy ? Map.groupBy(rows, ([group]) => group) : new Map([['', rows]]);
  for (const [group, members] of groups) {
    const list = document.createElement('dl');
    list.append(Object.assign(document.createElement('h3'), { textContent: group }));
    for (const [, words, keys] of members) {
      const name = document.createElement('dt');
      name.append(...keys.split(' ').flatMap((key) => [Object.assign(document.createElement('kbd'), { textContent: shown(key) }), ' ']));
      list.append(name, Object.assign(document.createElement('dd'), { textContent: words }));
    }
    sheet.append(list);
  }
}

const NAMES = { arrowup: '↑', arrowdown: '↓', arrowleft: '←', arrowright: '→', escape: 'Esc', delete: 'Del', '-': '−' };
const shown = (key) => key.split('+').map((part, at, all) => NAMES[part] ?? (part || (at === all.length - 1 ? '+' : '')).replace(/^./, (c) => c.toUpperCase())).filter(Boolean).join(' ');
