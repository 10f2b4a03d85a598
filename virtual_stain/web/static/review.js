// The review: one keystroke a decision. What is decided is shown at once and saved in order in the background; nothing
// is called decided before the server has it on disk.

import { $, element, get, percent, post } from "./api.js";
import { Cells, classOf } from "./cells.js";
import { keyOf, Loader } from "./loader.js";
import { SlideMap } from "./map.js";
import { PairView } from "./view.js";

const AHEAD = 4;
const MANY = 20; // tiles that nobody accepts at one press of Enter
const POLL_MS = 10000;
const WORDS = { accept: "accepted", reject: "rejected", skip: "skipped", open: "undecided", disputed: "disputed", stale: "stale verdict" };
const FLAGS = {
  few_cells: "few cells", classes_unknown: "intensities unknown", poor_overlap: "poor overlap", border: "border of the scan", blur_he: "H&E blurred", blur_ihc: "IHC blurred",
  corrected: "corrected by hand", registration: "registration unsure", saturated: "nuclei black to the camera", stains_unclear: "stains unclear",
  uncertain_ratio: "ratio unsure",
};

const reviewer = () => localStorage.getItem("vstain-reviewer") ?? "";
const loader = new Loader(reviewer);
const drafts = new Map(); // key → correction that is not saved yet
const state = { folder: null, items: [], index: -1, lastId: 0, tool: "change", decidedAt: [], queue: [], sending: false, showing: 0 };
let view;
let map;

window.vstain = { state, painted: [], loader }; // for the tests and the benchmark: when a tile was asked for and painted

const item = () => state.items[state.index];
const undecided = (i) => i.status === "open" || i.status === "stale";

// ---- showing a tile

async function show(index) {
  if (index < 0 || index >= state.items.length) return;
  keepDraft();
  const asked = performance.now();
  const ticket = ++state.showing;
  state.index = index;
  const shown = item();
  const entry = loader.load(shown);
  let tile = entry.tile;
  if (!tile) {
    describe(shown, null);
    try {
      tile = await entry.promise;
    } catch (error) {
      if (ticket === state.showing) banner(error.message, true);
      return;
    }
    if (ticket !== state.showing) return; // somebody was faster
  }
  const draft = drafts.get(keyOf(shown));
  if (draft) tile.cells = new Cells({ ...tile.detail, correction: draft });
  view.cursor = null;
  view.reset();
  view.show(tile);
  describe(shown, tile);
  requestAnimationFrame(() => setTimeout(() => window.vstain.painted.push({ key: keyOf(shown), ms: performance.now() - asked })));
  map.show(shown, state.items);
  loader.trim(keyOf(shown));
  upcoming(index).forEach((i) => loader.load(state.items[i]));
}

function upcoming(index) {
  const next = [];
  for (let i = index + 1; i < state.items.length && next.length < AHEAD; i += 1) if (undecided(state.items[i])) next.push(i);
  if (index + 1 < state.items.length && !next.includes(index + 1)) next.push(index + 1);
  if (index > 0) next.push(index - 1);
  return next;
}

function describe(shown, tile) {
  const counts = tile ? tile.cells.counts() : { ...shown, error: shown.standard_error };
  $("place").textContent = `${shown.pair} · column ${shown.col}, row ${shown.row} · ${WORDS[shown.status]}`;
  $("ratio").textContent = percent(counts.ratio);
  $("error").textContent = counts.error === null ? "no tumour cells" : `± ${(counts.error * 100).toFixed(1)} points (standard error)`;
  const um = (value) => (value === null ? "unknown" : `${value.toFixed(1)} µm`);
  const facts = [
    ["positive", counts.positive], ["negative", counts.negative],
    ...(tile?.cells.hasIntensities ? [["0 / 1+ / 2+ / 3+", [counts.negative, ...counts.intensities].join(" / ") + (counts.unknown ? `; intensity unknown: ${counts.unknown}` : "")]] : []),
    ["registration error", `${um(shown.error_median_um)} (p95 ${um(shown.error_p95_um)})`],
    ["tissue", percent(shown.tissue_fraction, 0)],
    ["ratio may train", counts.positive + counts.negative < state.folder.min_tile_cells ? "no: few cells" : shown.weight > 0 || shown.flags.join() === "few_cells" ? "yes" : "no"],
  ];
  const patient = state.folder.pairs.find((p) => p.name === shown.pair)?.patient_id;
  if (patient) facts.push(["patient (hash)", patient.slice(0, 12)]);
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  $("flags").replaceChildren(...shown.flags.map((f) => element("li", { textContent: FLAGS[f] ?? f })));
  $("said").replaceChildren(...shown.decisions.map((d) => said(d, false)), ...shown.stale.map((d) => said(d, true)));
  const edited = Boolean(tile?.cells.correction());
  $("edited").hidden = !edited;
  $("restore").hidden = !edited;
  $("adopt").hidden = !tile || !othersCells(tile).length;
  $("marker").textContent = state.folder.pairs.find((p) => p.name === shown.pair)?.marker ?? "IHC";
  $("ihc").setAttribute("aria-label", `IHC tile with ${counts.positive} positive and ${counts.negative} negative cells`);
  $("geojson").href = `api/review/pairs/${encodeURIComponent(shown.pair)}/export.geojson`;
  $("live").textContent = `Tile ${shown.col}, ${shown.row}: ${percent(counts.ratio)}, ${WORDS[shown.status]}`;
  pace();
}

function said(decision, stale) {
  const when = new Date(decision.time_unix_s * 1000).toLocaleString();
  const word = element("span", { className: stale ? "stale-text" : `${decision.verdict}-text`, textContent: WORDS[decision.verdict] });
  const more = [decision.corrected ? "cells corrected" : "", decision.reason, stale ? "on an earlier version of this label: not applied" : ""];
  return element("li", { title: when }, `${decision.reviewer}: `, word, more.filter(Boolean).map((m) => ` · ${m}`).join(""));
}

function pace() {
  const total = state.items.length;
  const done = state.items.filter((i) => !undecided(i)).length;
  $("done").max = Math.max(total, 1);
  $("done").value = done;
  const recent = state.decidedAt.slice(-20);
  const minutes = recent.length > 1 ? (recent.at(-1) - recent[0]) / 60000 : 0;
  const rate = minutes > 0 ? (recent.length - 1) / minutes : 0;
  const left = rate > 0 && done < total ? ` · ${rate.toFixed(0)}/min · ${Math.ceil((total - done) / rate)} min left` : "";
  const unsaved = state.queue.length ? ` · saving ${state.queue.length}` : "";
  $("pace").textContent = total ? `${done} of ${total} decided${left}${unsaved}` : "nothing here";
  const all = state.folder.pairs.reduce((n, p) => n + p.tiles, 0);
  $("queue-size").textContent = `${total === all ? total : `${total} of ${all}`} tiles, ${total - done} undecided`;
}

function banner(text, bad = false) {
  $("banner").hidden = !text;
  $("banner").textContent = text;
  $("banner").classList.toggle("bad", bad);
}

// ---- deciding

function decide(verdict, reason = "") {
  const shown = item();
  if (!shown) return;
  if (!reviewer()) return askName();
  const tile = loader.load(shown).tile;
  if (!tile) return; // nobody decides on a tile that is not shown yet
  const correction = verdict === "accept" ? tile.cells.correction() : null;
  const body = { reviewer: reviewer(), pair: shown.pair, col: shown.col, row: shown.row, label_id: shown.label_id, verdict, reason, correction };
  body.request_id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`.slice(0, 36);
  state.queue.push({ body, before: shown.status });
  keepQueue();
  // what is sent is no draft any more; corrections go with accept only
  if (verdict === "accept") tile.detail.correction = correction;
  else tile.cells = new Cells(tile.detail);
  drafts.delete(keyOf(shown));
  shown.status = verdict;
  state.decidedAt.push(Date.now());
  send();
  const next = upcoming(state.index).find((i) => i > state.index && undecided(state.items[i]));
  if (next !== undefined) show(next);
  else if (state.items.some(undecided)) show(state.items.findIndex(undecided));
  else {
    describe(shown, tile);
    banner("Every tile of this queue is decided. Run vstain build-records again to pack them.");
  }
}

async function send() {
  if (state.sending) return;
  state.sending = true;
  while (state.queue.length) {
    const { body, before } = state.queue[0];
    try {
      const answer = await post("api/review/decisions", body);
      state.queue.shift();
      keepQueue();
      state.lastId = Math.max(state.lastId, answer.id);
      update(answer.item);
      if ($("banner").dataset.unsaved) retryDone();
    } catch (error) {
      if (error.status === 401) return; // the page goes to ask for the token; what is not saved waits for its return
      if (error.status && error.status < 500) {
        state.queue.shift();
        keepQueue();
        const index = state.items.findIndex((i) => i.pair === body.pair && i.col === body.col && i.row === body.row);
        if (index >= 0) state.items[index].status = before;
        banner(`Not saved: ${error.message}`, true);
        if (index >= 0) show(index);
      } else {
        $("banner").dataset.unsaved = "yes";
        banner(`${state.queue.length} decision${state.queue.length > 1 ? "s are" : " is"} not saved yet: the server does not answer. Trying again…`, true);
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
    pace();
  }
  state.sending = false;
}

// What is not saved outlives the page: a token that has run out, a closed window, a server that is away.
function keepQueue() {
  const key = `vstain-unsaved ${state.folder.name}`;
  if (state.queue.length) localStorage.setItem(key, JSON.stringify(state.queue));
  else localStorage.removeItem(key);
}

function retryDone() {
  delete $("banner").dataset.unsaved;
  banner("");
}

function update(fresh) {
  const index = state.items.findIndex((i) => i.pair === fresh.pair && i.col === fresh.col && i.row === fresh.row);
  if (index < 0) return;
  const waiting = state.queue.find((q) => q.body.pair === fresh.pair && q.body.col === fresh.col && q.body.row === fresh.row);
  state.items[index] = waiting ? { ...fresh, status: waiting.body.verdict } : fresh;
  if (index !== state.index) loader.forget(fresh); // its corrections may be others now
  if (index === state.index) describe(fresh, loader.tiles.get(keyOf(fresh))?.tile ?? null);
}

async function undo() {
  if (!reviewer()) return askName();
  while (state.queue.length) await new Promise((resolve) => setTimeout(resolve, 30));
  try {
    const answer = await post("api/review/undo", { reviewer: reviewer() });
    state.lastId = Math.max(state.lastId, answer.last_id);
    if (!answer.undone) return banner("There is nothing to take back.");
    banner(answer.undone > 1 ? `${answer.undone} decisions taken back.` : "");
    state.decidedAt.pop();
    for (const fresh of answer.items) {
      loader.forget(fresh);
      update(fresh);
    }
    const first = answer.items[0];
    const index = state.items.findIndex((i) => first && keyOf(i) === keyOf(first));
    if (index >= 0) await show(index);
  } catch (error) {
    banner(error.message, true);
  }
}

function askReason() {
  if (!item()) return;
  if (!reviewer()) return askName();
  $("own-reason").value = "";
  $("ask-reason").returnValue = "";
  $("ask-reason").showModal();
  $("reasons").querySelector("button").focus();
}

function rejectFor(reason) {
  $("ask-reason").close();
  decide("reject", reason);
}

function askName() {
  $("name").value = reviewer();
  $("ask-name").showModal();
}

// ---- correcting

function touch(x, y, remove = false) {
  const tile = item() && loader.load(item()).tile;
  if (!tile || x < 0 || y < 0 || x >= view.tilePx || y >= view.tilePx) return;
  const reach = Math.max(12, 10 / view.zoom);
  const hit = tile.cells.nearest(x, y, reach, view.shown);
  const tool = remove ? "remove" : state.tool;
  if (tool === "positive" || tool === "negative") tile.cells.add(x, y, tool);
  else if (!hit) return;
  else if (tool === "remove") tile.cells.remove(hit);
  else {
    tile.cells.cycle(hit);
    if (hit.name === "ignored") showClass("ignored", true); // what was just made must not vanish
  }
  keepDraft();
  describe(item(), tile);
  view.draw();
}

function keepDraft() {
  const shown = item();
  const tile = shown && loader.tiles.get(keyOf(shown))?.tile;
  if (!tile) return;
  const [now, saved] = [tile.cells.correction(), tile.detail.correction];
  const same = JSON.stringify(now) === JSON.stringify(saved && { changed: saved.changed, removed: saved.removed, added: saved.added });
  if (same) drafts.delete(keyOf(shown));
  else drafts.set(keyOf(shown), now ?? { changed: [], removed: [], added: [] });
}

function restore() {
  const tile = loader.load(item()).tile;
  tile.cells = new Cells({ ...tile.detail, correction: null });
  keepDraft();
  describe(item(), tile);
  view.draw();
}

const othersCells = (tile) => tile.detail.corrections.filter((c) => c.reviewer !== reviewer());

// A reader who agrees with another's cells says so; the next press takes those of the next reader.
function adopt() {
  const tile = loader.load(item()).tile;
  const others = othersCells(tile);
  tile.adopted = ((tile.adopted ?? -1) + 1) % others.length;
  const { reviewer: name, correction } = others[tile.adopted];
  tile.cells = new Cells({ ...tile.detail, correction });
  keepDraft();
  describe(item(), tile);
  view.draw();
  banner(`The cells of ${name}. Accept (A) makes them yours.`);
}

function setTool(tool) {
  state.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
}

function showClass(name, on = !view.shown[name]) {
  view.shown[name] = on;
  document.querySelector(`[data-show=${name}]`).setAttribute("aria-pressed", on);
  view.draw();
}

function moveCursor(event) {
  const step = event.shiftKey ? 2 : Math.max(4, 24 / view.zoom);
  const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (by) {
    const keep = (v) => Math.min(Math.max(v, 0), view.tilePx - 1);
    view.cursor = [keep(view.cursor[0] + by[0]), keep(view.cursor[1] + by[1])];
  } else if (event.key === "Tab") {
    // the next visible cell in reading order
    const cells = loader.load(item()).tile.cells.all().filter((c) => view.shown[classOf(c.name)]);
    if (!cells.length) return false;
    const order = cells.sort((a, b) => a.y - b.y || a.x - b.x);
    const rank = (c) => c.y > view.cursor[1] + 0.01 || (Math.abs(c.y - view.cursor[1]) <= 0.01 && c.x > view.cursor[0] + 0.01);
    const next = event.shiftKey ? (order.findLast((c) => !rank(c) && (c.x !== view.cursor[0] || c.y !== view.cursor[1])) ?? order.at(-1)) : (order.find(rank) ?? order[0]);
    view.cursor = [next.x, next.y];
  } else if (event.key === "Enter" || event.key === " ") touch(...view.cursor, event.shiftKey);
  else if (event.key === "Escape" || event.key === "e") view.cursor = null;
  else return false;
  if (view.cursor) view.reveal(...view.cursor);
  view.draw();
  const near = view.cursor && loader.load(item()).tile.cells.nearest(...view.cursor, 12, view.shown);
  $("live").textContent = !view.cursor ? "cross hair off" : near ? `${near.name} cell` : "no cell here";
  return true;
}

// ---- the queue

function filterValues() {
  const data = new FormData($("filter"));
  const values = {};
  for (const [name, raw] of data) {
    const text = String(raw).trim();
    if (!text) continue;
    if (name === "flag" && text === "-") values.without_flags = true;
    else if (name === "corrected") values.corrected = true;
    else if (name.startsWith("ratio")) values[name] = number(text) / 100;
    else if (name === "error_max_um") values[name] = number(text);
    else values[name] = text;
  }
  return values;
}

function number(text) {
  const value = Number(text.replace(",", "."));
  if (!Number.isFinite(value)) throw new Error(`Expected a number. Received: ${text}`);
  return value;
}

async function loadQueue() {
  keepDraft();
  try {
    const query = await get(`api/review/queue?${new URLSearchParams(filterValues())}`);
    const before = item();
    state.items = query.items;
    state.lastId = query.last_id;
    state.index = -1;
    banner("");
    if (!state.items.length) {
      $("place").textContent = "No tile passes this filter.";
      view.show(null);
      return pace();
    }
    const same = before ? state.items.findIndex((i) => keyOf(i) === keyOf(before) && undecided(i)) : -1;
    await show(same >= 0 ? same : Math.max(0, state.items.findIndex(undecided)));
  } catch (error) {
    banner(error.message, true);
  }
}

// Why fewer tiles are shown than were built.
function leftOut(folder) {
  const shown = folder.pairs.reduce((n, p) => n + p.tiles, 0);
  const built = folder.pairs.reduce((n, p) => n + p.tiles_built, 0);
  const texts = [];
  if (built > shown) texts.push(`${built} tiles were built, ${shown} are shown: at ${built - shown} the registration error is unknown or above ${folder.max_p95_um} µm (p95), so no verdict can make them records.`);
  if (folder.pairs_without_tiles.length) texts.push(`Without tiles: ${folder.pairs_without_tiles.join(", ")}. The output of vstain build-records says why.`);
  $("left-out").hidden = !texts.length;
  $("left-out").textContent = texts.join(" ");
}

async function poll() {
  try {
    if (!document.hidden) {
      const changed = await get(`api/review/changes?after=${state.lastId}`);
      state.lastId = Math.max(state.lastId, changed.last_id);
      changed.items.forEach(update);
    }
  } catch {
    // the next decision will tell
  }
  setTimeout(poll, POLL_MS);
}

async function batch() {
  if (!reviewer()) return askName();
  const { order: _, ...filter } = filterValues();
  const waiting = state.items.filter((i) => i.status === "open").length;
  const stale = state.items.filter((i) => i.status === "stale").length;
  if (!waiting) return banner(stale ? `${stale} tiles have a stale verdict and need a look one by one.` : "There is nothing undecided in this queue.");
  const set = Object.entries(filter).map(([k, v]) => `${k.replaceAll("_", " ")}: ${v}`);
  $("batch-text").textContent = `${waiting} undecided tiles (${set.length ? set.join(", ") : "no filter: all pairs"}) will be accepted as ${reviewer()} without being looked at one by one. Undo takes them back together.${stale ? ` ${stale} with a stale verdict are left out.` : ""}`;
  const many = waiting > MANY;
  $("batch-many").hidden = !many;
  $("batch-many").textContent = many ? `More than ${MANY} tiles: Enter cancels. To accept them choose "Accept them".` : "";
  $("ask-batch").returnValue = "";
  $("ask-batch").showModal();
  $(many ? "batch-cancel" : "batch-accept").focus();
  $("ask-batch").onclose = async () => {
    if ($("ask-batch").returnValue !== "ok") return;
    try {
      const answer = await post("api/review/batch", { reviewer: reviewer(), filter, expected: waiting });
      await loadQueue();
      banner(`${answer.accepted} tiles accepted. Undo (U) takes them back together.`);
    } catch (error) {
      banner(error.message, true);
    }
  };
}

async function agreement() {
  const { readers } = await get("api/review/agreement");
  const text = $("agreement-text");
  text.replaceChildren();
  if (!readers.length) text.append(element("p", { textContent: "No two readers have decided on the same tile yet." }));
  else {
    const head = ["Readers", "shared", "equal", "Cohen's κ", "ratio: mean difference", "limits of agreement"];
    const rows = readers.map((r) => [
      `${r.first} – ${r.second}`, r.n_shared, r.n_equal, r.kappa === null ? "–" : r.kappa.toFixed(2),
      r.mean_difference === null ? "–" : `${(r.mean_difference * 100).toFixed(1)} points (${r.n_ratios} tiles)`,
      r.limits_of_agreement === null ? "–" : r.limits_of_agreement.map((v) => (v * 100).toFixed(1)).join(" to "),
    ]);
    const cells = (tag, values) => element("tr", {}, ...values.map((v) => element(tag, { textContent: v })));
    text.append(element("table", { className: "table" }, element("thead", {}, cells("th", head)), element("tbody", {}, ...rows.map((r) => cells("td", r)))));
  }
  $("agreement").showModal();
}

// ---- keys

const KEYS = {
  a: () => decide("accept"), r: askReason, s: () => decide("skip"), u: undo, b: batch,
  " ": () => show(state.index + 1), ArrowRight: () => show(state.index + 1), ArrowLeft: () => show(state.index - 1),
  1: () => showClass("positive"), 2: () => showClass("negative"), 3: () => showClass("ignored"),
  c: () => setTool("change"), p: () => setTool("positive"), n: () => setTool("negative"), x: () => setTool("remove"),
  "+": () => view.zoomBy(1.4), "=": () => view.zoomBy(1.4), "-": () => view.zoomBy(1 / 1.4), 0: () => view.reset(),
  h: () => ((view.cellsOnHe = !view.cellsOnHe), view.draw()),
  o: () => {
    const on = !Object.values(view.shown).some(Boolean);
    showClass("positive", on);
    showClass("negative", on);
    showClass("ignored", false);
  },
  e: () => {
    if (!item()) return;
    view.cursor = [view.x, view.y];
    $("ihc").focus();
    view.draw();
    $("live").textContent = "cross hair on: arrows move it, Tab goes to the next cell, Enter is a click, Escape ends";
  },
  f: () => (($("filters").open = true), $("filter").elements.order.focus()),
  m: () => $("map").focus(),
  "?": () => $("help").showModal(),
};

// keys that go on while they are held; every other one acts once
const HELD = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Tab", "+", "=", "-"]);

function onKey(event) {
  if (event.ctrlKey && event.key === "z") event.preventDefault();
  if (!view || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if ((event.ctrlKey || event.metaKey || event.altKey) && !(event.ctrlKey && event.key === "z")) return;
  const gone = event.target.closest("dialog"); // closed a moment ago: its field keeps the focus until the next frame
  const typing = !gone && event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.repeat && !HELD.has(event.key)) return event.preventDefault();
  if (view.cursor && item() && moveCursor(event)) return event.preventDefault();
  const onControl = !gone && event.target.closest("button, a, summary");
  if (onControl && (event.key === " " || event.key === "Enter")) return; // the control's own
  if (event.shiftKey && event.key.startsWith("Arrow")) {
    const by = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] }[event.key];
    view.panBy(...by);
    return event.preventDefault();
  }
  const action = event.ctrlKey ? undo : (KEYS[event.key] ?? KEYS[event.key.toLowerCase()]);
  if (!action) return;
  event.preventDefault();
  action();
}

function wire() {
  document.addEventListener("keydown", onKey);
  const clicks = {
    accept: () => decide("accept"), reject: askReason, skip: () => decide("skip"), undo, batch, agree: agreement,
    previous: () => show(state.index - 1), next: () => show(state.index + 1), restore, adopt,
    "zoom-in": () => view.zoomBy(1.4), "zoom-out": () => view.zoomBy(1 / 1.4), "zoom-whole": () => view.reset(), who: askName, "open-help": () => $("help").showModal(),
  };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const button of document.querySelectorAll("[data-show]")) button.addEventListener("click", () => showClass(button.dataset.show));
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
  $("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    loadQueue();
  });
  $("filter").addEventListener("reset", () => setTimeout(loadQueue));
  $("ask-name").querySelector("form").addEventListener("submit", () => {
    // at once, not when the dialog has closed: the next key may be a decision
    const name = $("name").value.trim();
    if (name && name !== reviewer()) {
      localStorage.setItem("vstain-reviewer", name);
      drafts.clear(); // another reader: other corrections
      for (const { tile } of loader.tiles.values()) if (tile) loader.own(tile);
      const tile = item() && loader.tiles.get(keyOf(item()))?.tile;
      if (tile) describe(item(), tile);
      view?.draw();
    }
    $("who").textContent = reviewer() || "Who reviews?";
  });
  // decided in the event itself: a dialog tells that it is closed later, when the next key may have moved on
  $("ask-reason").addEventListener("keydown", (event) => {
    // held down, the key comes again while the closed dialog still has the focus: it would reject the next tile
    if (event.repeat || !$("ask-reason").open) return event.stopPropagation();
    const chosen = event.target === $("own-reason") ? undefined : state.folder.reasons[Number(event.key) - 1];
    if (!chosen) return;
    event.preventDefault();
    event.stopPropagation(); // the dialog is closed when the page hears of the key, where it shows and hides cells
    rejectFor(chosen);
  });
  $("ask-reason").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const reason = $("own-reason").value.trim();
    if (event.submitter?.value === "") $("ask-reason").close();
    else if (reason) rejectFor(reason);
    else $("own-reason").focus();
  });
  window.addEventListener("beforeunload", (event) => {
    if (drafts.size) event.preventDefault(); // decisions that are not saved yet are kept for the next visit
  });
}

async function begin() {
  const given = $("who").dataset.reviewer;
  if (given) localStorage.setItem("vstain-reviewer", given);
  $("who").textContent = reviewer() || "Who reviews?";
  wire();
  try {
    state.folder = await get("api/review");
  } catch (error) {
    return banner(error.message, true);
  }
  const { folder } = state;
  $("folder").textContent = folder.name;
  const form = $("filter").elements;
  form.pair.append(...folder.pairs.map((p) => element("option", { value: p.name, textContent: `${p.name} (${p.decided}/${p.tiles})` })));
  leftOut(folder);
  form.flag.append(...folder.flags.map((f) => element("option", { value: f, textContent: FLAGS[f] ?? f })));
  $("reasons").replaceChildren(
    ...folder.reasons.map((reason, i) => element("li", {}, element("button", { type: "button", onclick: () => rejectFor(reason) }, element("kbd", { textContent: i + 1 }), ` ${reason}`))),
  );
  view = new PairView($("he"), $("ihc"), folder.tile_px, touch, (zoom) => {
    const um = (folder.tile_mpp / zoom) * (window.devicePixelRatio || 1);
    $("scale").textContent = `${folder.tile_mpp.toFixed(2)} µm/px, shown at ${um.toFixed(2)}`;
  });
  window.vstain.view = view;
  map = new SlideMap($("map"), (picked) => {
    const index = state.items.findIndex((i) => keyOf(i) === keyOf(picked));
    if (index >= 0) show(index);
  });
  state.queue = JSON.parse(localStorage.getItem(`vstain-unsaved ${folder.name}`) ?? "[]");
  await loadQueue();
  if (state.queue.length) send();
  if (!reviewer()) askName();
  setTimeout(poll, POLL_MS);
}

begin();
