// Creates elements without markup, and patches the shown DOM into the wanted one while leaving the
// rest untouched: focus, selection, scroll positions and open details are kept. Data of the cluster
// becomes text nodes and attributes, never markup.

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

// Creates an HTML element with attributes and children; strings become text nodes.
export const h = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);

// Creates an SVG element.
export const s = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, children);

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? (node.getAttribute("data-key") ?? undefined) : undefined);
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;

// Makes the children of `parent` equal to `fresh`. Children with a `data-key` are matched by key,
// wherever they are now.
export function morph(parent, fresh) {
  const wanted = new Set(fresh.map(keyOf).filter((key) => key !== undefined));
  const known = new Map();
  for (const child of parent.childNodes) {
    const key = keyOf(child);
    if (key !== undefined) known.set(key, child);
  }
  let at = parent.firstChild;
  for (const node of fresh) {
    // Removes vanished nodes first, so that the remaining ones need not move: moving a node takes
    // the focus away.
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
    // The user decides whether details are open.
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) === value) continue;
    old.setAttribute(name, value);
    if (name === "value" && old.nodeName === "INPUT" && old !== document.activeElement) old.value = value;
  }
  morph(old, [...fresh.childNodes]);
  // A selection is kept until the page asks for another one.
  if (old.nodeName === "SELECT" && old.dataset.chosen !== fresh.dataset.chosen) old.value = fresh.value;
}
