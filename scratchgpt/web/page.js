// What the page does in the browser itself: its memory, its colours, its address, copying.

// Each value is kept for this window (over reloads) and for new ones (over restarts); a window reads its own first.
const PREFIX = "scratchgpt.";
const MOST_BYTES = 800_000; // of all values together: a message to the server may have a million
const LONGEST_LIST = 200_000; // characters

function remember(key, value) {
  const text = JSON.stringify(value ?? null);
  for (const store of [sessionStorage, localStorage]) {
    try {
      store.setItem(PREFIX + key, text);
    } catch {} // full, or forbidden
  }
}

function stored(key) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + key) ?? localStorage.getItem(PREFIX + key));
  } catch {
    return null;
  }
}

function recall() {
  const names = [...Object.keys(sessionStorage), ...Object.keys(localStorage)].filter((name) => name.startsWith(PREFIX));
  const values = [...new Set(names)].map((name) => [name.slice(PREFIX.length), stored(name.slice(PREFIX.length))]);
  const sizes = new Map(values.map(([key, value]) => [key, new Blob([JSON.stringify(value)]).size]));
  for (const [key, value] of values) {
    // Half a character, which no message may have; JSON writes a backslash of the text twice.
    if (/(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(JSON.stringify(value))) sizes.set(key, Infinity);
  }
  let room = MOST_BYTES;
  const fits = ([key]) => (room -= sizes.get(key)) > 0;
  return Object.fromEntries(values.sort((a, b) => sizes.get(a[0]) - sizes.get(b[0])).filter(fits));
}

// All windows share a list, so that none loses what another has added.
function rememberFirst(key, item, most) {
  let items = [];
  try {
    items = JSON.parse(localStorage.getItem(PREFIX + key)) ?? [];
  } catch {}
  items = [item, ...(Array.isArray(items) ? items : [])].slice(0, most);
  while (JSON.stringify(items).length > LONGEST_LIST) items.pop();
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(items));
  } catch {}
}

// Texts that the server writes into labels are kept as they stand when the page goes. A window whose text has not
// changed leaves what another window has kept.
const keptShown = new Map();
const shownText = (id) => getHtmlElement(id)?.textContent ?? mounted_app.elements[id]?.text ?? "";
const keepShown = (key, id) => keptShown.set(key, { id, before: shownText(id) });
addEventListener("pagehide", () => {
  for (const [key, { id, before }] of keptShown) if (shownText(id) !== before) remember(key, shownText(id));
});

// null: as the system is.
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function chosenDark() {
  const dark = stored("dark");
  return typeof dark === "boolean" ? dark : null;
}

function turnDark() {
  remember("dark", { null: true, true: false, false: null }[chosenDark()]);
  setDark(chosenDark());
}

addEventListener("popstate", () => emitEvent("address", location.search));

// As navigator.clipboard does it, which only exists where the address is safe.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  Quasar.Notify.create({ message: "Copied.", timeout: 1500 });
}
