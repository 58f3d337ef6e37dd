// Entry point of the page: resolves the view from the address, refreshes it every two seconds while
// the page is visible, and shows errors.

import { h, morph } from "./dom.js";
import { time } from "./format.js";
import { link } from "./parts.js";
import { agent, agents } from "./agents.js";
import { clients } from "./clients.js";
import { group, groups } from "./groups.js";
import { overview } from "./overview.js";
import { Samples, rates } from "./rates.js";
import { asked, records } from "./records.js";
import { topic, topics } from "./topics.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 12000;
const TYPING_MS = 250;

const element = (id) => document.getElementById(id);
const [view, title, problem, state, pause, said, about] = ["view", "title", "problem", "state", "pause", "said", "about"].map(element);
const samples = new Samples();

let route = null;
let turn = 0;
let timer = 0;
let paused = false;
let shownAt = 0;
let abort = new AbortController();

// Resolves the view, the names in the path and the parameters of an address.
function routeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [first, ...names] = path.split("/").filter(Boolean).map(decode);
  const parameters = Object.fromEntries(new URLSearchParams(query));
  const found = (chosen) => ({ view: chosen, section: first ?? "", names, parameters });
  if (first === undefined) return found(overview);
  if (first === "rates" && !names.length) return found(rates);
  if (first === "clients" && !names.length) return found(clients);
  if (first === "topics" && names.length === 2 && names[1] === "records") return found(records);
  const lists = { topics: [topics, topic], groups: [groups, group], agents: [agents, agent] };
  const chosen = names.length < 2 ? lists[first]?.[names.length] : undefined;
  return found(chosen ?? nowhere);
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const nowhere = {
  still: true,
  title: () => "No such page",
  load: async () => ({}),
  render: () => [h("p", {}, "This page does not exist. ", h("a", { href: "#/" }, "Go to the overview"), ".")],
};

// Fetches one API resource.
async function get(what, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== ""));
  const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(PATIENCE_MS)]);
  const answer = await fetch(`api/${what}?${query}`, { signal, cache: "no-store", headers: { accept: "application/json" } });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  if (answer.status === 401) location.assign("login");
  const error = body.error ?? { code: `HTTP ${answer.status}`, message: "the response does not come from a StreamHouse console; check the proxies in between" };
  throw Object.assign(new Error(error.message), { code: error.code, status: answer.status });
}

function say(text) {
  if (said.textContent !== text) said.textContent = text;
}

function show(name, text) {
  state.dataset.state = name;
  if (state.textContent !== text) state.textContent = text;
}

function settle() {
  if (paused) show("paused", "Paused");
  else if (route.view.still) show("still", "Not refreshed");
  else show("live", "Live");
}

function explain(error) {
  const from = shownAt ? ` What is shown is from ${time(shownAt).slice(11, 19)} UTC.` : "";
  if (error.status) {
    const again = route.view.still || error.status === 404 || error.status === 400 ? "" : " The page retries every two seconds.";
    return [h("strong", {}, error.code), ` ${error.message}.${again}${error.status < 500 ? "" : from}`];
  }
  return [h("strong", {}, "The agent does not answer."), ` It may have stopped, or the network path to it is broken. The page retries every two seconds.${from}`];
}

// The content shown when the first load of a view fails.
const instead = () => (route.view.still ? route.view.render(null, route, { samples }) : [h("p", {}, h("a", { href: `#/${route.section}` }, "Go to the list"))]);

function complain(error) {
  view.removeAttribute("aria-busy");
  const refused = error.status >= 400 && error.status < 500;
  show(refused ? "still" : "lost", refused ? "Request refused" : "No answer");
  morph(problem, [h("p", {}, explain(error))]);
  problem.hidden = false;
  view.classList.toggle("old", !refused);
}

function praise() {
  if (!problem.hidden && !problem.dataset.refused) say("The agent responds again.");
  problem.hidden = true;
  view.classList.remove("old");
}

// One refresh: the agent's counters first, then the data of the view.
async function look(mine, first) {
  try {
    samples.add(await get("rates"));
    const data = await route.view.load(get, route);
    if (mine !== turn) return;
    shownAt = Date.now();
    praise();
    morph(view, route.view.render(data, route, { samples }));
    view.removeAttribute("aria-busy");
    const { agent: answered } = samples.latest;
    about.textContent = `Read-only. Answered by agent ${answered.agent_id || "(not registered yet)"}, version ${answered.version}.`;
    if (first && route.view.say) say(route.view.say(data));
    settle();
  } catch (error) {
    if (mine !== turn) return;
    if (first && error.status < 500) morph(view, instead());
    complain(error);
  }
}

// Refreshes now, and schedules the next refresh while the page is visible and the view is a live
// one.
async function run(first) {
  clearTimeout(timer);
  const mine = turn;
  await look(mine, first);
  if (mine !== turn) return;
  const lost = state.dataset.state === "lost";
  if ((!route.view.still || lost) && !paused && !document.hidden) timer = setTimeout(() => run(first && lost), EVERY_MS);
}

// Navigates to the current address. The focus moves to the title only if the view or its names
// changed.
function go() {
  const before = route;
  route = routeOf(location.hash);
  turn += 1;
  abort.abort();
  abort = new AbortController();
  const name = route.view.title(route);
  const same = before && before.view === route.view && before.names.join("/") === route.names.join("/");
  pause.hidden = Boolean(route.view.still);
  document.title = `${name} \u2013 StreamHouse`;
  title.textContent = name;
  for (const entry of document.querySelectorAll("#nav a")) {
    const here = entry.getAttribute("href") === `#/${route.section}`;
    if (here) entry.setAttribute("aria-current", "page");
    else entry.removeAttribute("aria-current");
  }
  if (!same) {
    problem.hidden = true;
    view.setAttribute("aria-busy", "true");
    morph(view, [h("p", { class: "quiet" }, "Loading.")]);
    if (before) {
      title.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }
  run(true);
}

function setPaused(value) {
  paused = value;
  pause.textContent = paused ? "Resume" : "Pause";
  say(paused ? "Refreshing is paused." : "Refreshing is resumed.");
  if (paused) {
    clearTimeout(timer);
    settle();
  } else {
    run(false);
  }
}

// Typing in a filter replaces the address, so that the back button leads to the previous page and
// not through each letter.
function submit(form, replace) {
  const values = Object.fromEntries(new FormData(form));
  const address = form.dataset.read === undefined ? link([form.dataset.go], values) : asked(form.dataset.read, values);
  if (address === location.hash) run(true);
  else if (replace) {
    history.replaceState(null, "", address);
    go();
  } else location.hash = address;
}

let typing = 0;
document.addEventListener("submit", (event) => {
  if (event.target.method === "post") return;
  event.preventDefault();
  clearTimeout(typing);
  submit(event.target, false);
});
document.addEventListener("input", (event) => {
  if (event.target.dataset.instant === undefined) return;
  clearTimeout(typing);
  typing = setTimeout(() => submit(event.target.form, true), TYPING_MS);
});
element("skip").addEventListener("click", (event) => {
  event.preventDefault();
  element("main").focus();
});
pause.addEventListener("click", () => setPaused(!paused));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!paused && !route.view.still) run(false);
});
addEventListener("hashchange", go);
go();

// Offers to log out where somebody had to log in.
async function offerLogout() {
  const answer = await fetch("api/session", { cache: "no-store" });
  if (!answer.ok) return;
  const { user } = await answer.json();
  element("logout").hidden = !user;
  element("logout").title = user ? `Logged in as ${user}` : "";
}
offerLogout().catch(() => {});
