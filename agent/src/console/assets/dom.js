// Elements made without any markup, and a patch that turns what is shown into what should be shown without touching the rest: focus,
// selection, scroll positions and open details stay. Whatever the cluster holds becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

// An element with attributes and children; strings become text.
export const h = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);

// The same for SVG.
export const s = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, children);

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? (node.getAttribute("data-key") ?? undefined) : undefined);
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;

// Makes the children of `parent` what `fresh` is. Children with a `data-key` are found again wherever they stand now.
export function morph(parent, fresh) {
  const wanted = new Set(fresh.map(keyOf).filter((key) => key !== undefined));
  const known = new Map();
  for (const child of parent.childNodes) {
    const key = keyOf(child);
    if (key !== undefined) known.set(key, child);
  }
  let at = parent.firstChild;
  for (const node of fresh) {
    // What is gone leaves first, so that what stays need not move: moving takes the focus away.
    while (at && keyOf(at) !== undefined && !wanted.has(keyOf(at))) at = drop(at);
    const key = keyOf(node);
    const match = key === undefined ? (at && keyOf(at) === undefined ? at : null) : known.get(key);
    if (match && alike(match, node)) {
      if (match === at) at = at.nextSibling;
      else parent.insertBefore(match, at);
      patch(match, node);
    } else {
      parent.insertBefore(node, at);
    }
  }
  while (at) at = drop(at);
}

function drop(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whether details are open is up to who reads them.
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) === value) continue;
    old.setAttribute(name, value);
    if (name === "value" && old.nodeName === "INPUT" && old !== document.activeElement) old.value = value;
  }
  morph(old, [...fresh.childNodes]);
  // What was chosen stays until the page is asked for something else.
  if (old.nodeName === "SELECT" && old.dataset.chosen !== fresh.dataset.chosen) old.value = fresh.value;
}
