// Formats numbers, sizes and times for people. Independent of the browser's language: the page is
// in English.

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const FEW = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const NOTHING = "\u2013";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// 1,234,567
export const count = (value) => (isNumber(value) ? WHOLE.format(value) : NOTHING);

// One decimal below 100.
export const about = (value) => (!isNumber(value) ? NOTHING : value >= 100 ? WHOLE.format(value) : FEW.format(value));

// 4.2 MiB
export function bytes(value) {
  if (!isNumber(value)) return NOTHING;
  let unit = 0;
  let rest = Math.abs(value);
  while (rest >= 1024 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  const sign = value < 0 ? "-" : "";
  return unit === 0 ? `${sign}${WHOLE.format(rest)} B` : `${sign}${rest.toFixed(1)} ${UNITS[unit]}`;
}

// 12 ms, 3.4 s
export function seconds(value) {
  if (!isNumber(value)) return NOTHING;
  return value < 1 ? `${about(value * 1000)} ms` : `${about(value)} s`;
}

// 3 d 4 h, 12 min, 5 s
export function duration(ms) {
  if (!isNumber(ms)) return NOTHING;
  const all = Math.max(0, Math.floor(ms / 1000));
  const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${all} s`;
}

// 2026-01-31 08:00:00.371Z: millisecond precision in UTC, as on the command line.
export function time(ms) {
  if (!isNumber(ms)) return NOTHING;
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? `${ms} ms` : date.toISOString().replace("T", " ");
}

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Makes control characters visible: they could hide or reorder the text beside them.
export const visible = (text) =>
  text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, (c) => (c === "\u007f" ? "\u2421" : String.fromCharCode(0x2400 + c.charCodeAt(0)))).replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`);

// 00ff 12ab: hexadecimal digits in groups of two bytes.
export const groups = (hex) => hex.replace(/(.{4})(?=.)/g, "$1 ");
