// Untrusted text: it enters the page as text nodes only, never as markup, with invisible characters shown.

const CUT = 20000; // characters of one text shown at first
const MARKS = 500; // highlighted hits and marked characters a text; later ones are plain

// controls, invisible and direction-changing characters, lone surrogates; not the joiners and signs that scripts are written with
const HIDDEN = /((?![\n\t\u200c\u200d\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2])[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029])\1*/gu;
const CONTROLS =
  "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split(" ");

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(2).filter((child) => child != null && child !== false));
  return node;
}

// "NUL", "U+202E"; of several in a row, how many: "NUL\u00d71,024".
function nameOf(run) {
  const code = run.codePointAt(0);
  const count = run.length / String.fromCodePoint(code).length;
  const name = CONTROLS[code] ?? (code === 0x7f ? "DEL" : "U+" + code.toString(16).toUpperCase().padStart(4, "0"));
  return count > 1 ? `${name}\u00d7${count.toLocaleString("en")}` : name;
}

// A string with hidden characters written out: for one-line places.
function plain(text) {
  return String(text ?? "").replace(HIDDEN, (run) => `\u2039${nameOf(run)}\u203a`);
}

function oneLine(text, length = 160) {
  const line = String(text ?? "")
    .slice(0, 4 * length)
    .replace(/\s+/gu, " ")
    .trim();
  return plain(line.length > length ? cutAt(line, length) + " .." : line);
}

// A short text as it is, spaces included; the head of any other.
function brief(text) {
  return plain(text.length > 300 ? cutAt(text, 300) + " .." : text);
}

// The first `length` code units, not ending inside a character.
function cutAt(text, length) {
  const code = text.charCodeAt(length - 1);
  return text.slice(0, code >= 0xd800 && code < 0xdc00 ? length - 1 : length);
}

function pattern(query) {
  return query ? new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/gu, "\\$&"), "giu") : null;
}

// Text nodes, with hidden characters as marks and hits of the search highlighted.
function textNodes(text, hits) {
  const parts = [];
  let left = MARKS;
  const split = (piece, regex, make, otherwise) => {
    let from = 0;
    for (const match of regex ? piece.matchAll(regex) : []) {
      if (left-- <= 0) break;
      otherwise(piece.slice(from, match.index));
      parts.push(make(match[0]));
      from = match.index + match[0].length;
    }
    otherwise(piece.slice(from));
  };
  const push = (piece) => piece && parts.push(plain(piece));
  const hidden = (piece) => split(piece, HIDDEN, (run) => el("span", { class: "hidden" }, nameOf(run)), push);
  split(text, hits, (hit) => el("mark", {}, plain(hit)), hidden);
  return parts;
}

// A block of text; the head of a long one, with a button for the rest. `parted`: where another run's text goes its own way.
function block(text, hits, { parted = null, label = null } = {}) {
  text = String(text ?? "");
  const pre = el("pre", { dir: "auto", "aria-label": label, role: label ? "group" : null });
  const fill = (shown) => {
    const at = parted === null ? shown.length : Math.min(parted, shown.length);
    pre.replaceChildren(...textNodes(shown.slice(0, at), hits));
    if (at < shown.length) pre.append(el("span", { class: "parted" }, ...textNodes(shown.slice(at), hits)));
    if (!text) pre.append(el("span", { class: "muted" }, "(empty)"));
  };
  if (text.length <= CUT) {
    fill(text);
    return pre;
  }
  fill(cutAt(text, CUT));
  const all = el("button", { type: "button", class: "all" }, `Show all ${text.length.toLocaleString("en")} characters`);
  all.addEventListener("click", () => {
    pre.className = "whole";
    fill(text);
    pre.tabIndex = -1;
    pre.focus({ preventScroll: true });
    all.remove();
  });
  return el("div", {}, pre, all);
}

function commonStart(one, other) {
  const end = Math.min(one.length, other.length);
  let i = 0;
  while (i < end && one.charCodeAt(i) === other.charCodeAt(i)) i++;
  return i && (one.charCodeAt(i - 1) & 0xfc00) === 0xd800 ? i - 1 : i;
}
