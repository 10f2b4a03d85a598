// Submit slides, watch the queue.

import { $, element, get, post, Refused } from "./api.js";

const POLL_MS = 1000;
const JOBS_SHOWN = 100;
const state = { folder: "", folders: [], slides: [], truncated: false, chosen: new Set(), jobs: new Map(), befores: [] };

function banner(text, bad = true) {
  $("banner").hidden = !text;
  $("banner").textContent = text;
  $("banner").classList.toggle("bad", bad);
}

const size = (bytes) => (bytes > 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes > 1e6 ? `${(bytes / 1e6).toFixed(0)} MB` : `${Math.ceil(bytes / 1e3)} kB`);

export function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

async function open(folder) {
  try {
    Object.assign(state, await get(`api/slides?${new URLSearchParams({ folder })}`));
    draw();
  } catch (error) {
    banner(error.message);
  }
}

function draw() {
  const parts = state.folder ? state.folder.split("/") : [];
  const crumb = (name, path) => element("button", { type: "button", textContent: name, onclick: () => open(path) });
  $("crumbs").replaceChildren(crumb("root", ""), ...parts.map((p, i) => crumb(`/ ${p}`, parts.slice(0, i + 1).join("/"))));
  const wanted = $("find").value.toLowerCase();
  const shown = shownSlides();
  const folders = state.folders.filter((f) => f.split("/").at(-1).toLowerCase().includes(wanted));
  const rows = [
    ...folders.map((f) => element("li", {}, element("button", { type: "button", onclick: () => open(f) }, `▸ ${f.split("/").at(-1)}`))),
    ...shown.map((s) => {
      const box = element("input", { type: "checkbox", checked: state.chosen.has(s.path), onchange: () => choose(s.path, box.checked) });
      return element("li", {}, element("label", {}, box, s.name, element("span", { className: "quiet", textContent: size(s.bytes) })));
    }),
  ];
  if (!rows.length) rows.push(element("li", {}, element("p", { className: "quiet", textContent: "No slides here." })));
  if (state.truncated) rows.push(element("li", {}, element("p", { className: "quiet", textContent: "More than can be listed: use subfolders." })));
  $("list").replaceChildren(...rows);
  count();
}

const shownSlides = () => state.slides.filter((s) => s.name.toLowerCase().includes($("find").value.toLowerCase()));

function choose(path, on) {
  if (on) state.chosen.add(path);
  else state.chosen.delete(path);
  count();
}

function count() {
  const n = state.chosen.size;
  $("chosen").textContent = n === 1 ? "1 slide" : `${n} slides`;
  $("score").disabled = n === 0;
}

async function submit(event) {
  event.preventDefault();
  if (!state.chosen.size) return banner("Choose at least one slide.");
  const body = { slides: [...state.chosen], model: $("model").value };
  const mpp = $("mpp").value.trim().replace(",", ".");
  if (mpp) {
    if (!(Number(mpp) > 0)) return banner(`µm/px: expected a number. Received: ${mpp}`);
    body.mpp_um = [Number(mpp), Number(mpp)];
  }
  try {
    await post("api/jobs", body);
    state.chosen.clear();
    banner("");
    draw();
    await refresh();
  } catch (error) {
    banner(error.message);
  }
}

async function refresh() {
  const before = state.befores.at(-1);
  const { jobs, total, waiting } = await get(`api/jobs?limit=${JOBS_SHOWN + 1}${before ? `&before=${before}` : ""}`);
  const older = jobs.length > JOBS_SHOWN;
  if (older) jobs.pop();
  $("pages").hidden = !older && !before;
  $("older").disabled = !older;
  $("newer").disabled = !before;
  $("older").dataset.before = jobs.at(-1)?.id ?? "";
  $("which").textContent = jobs.length ? `Jobs ${jobs.at(-1).id} to ${jobs[0].id} of ${total}; ${waiting} wait or run, the oldest first` : "";
  $("empty").hidden = jobs.length > 0;
  const seen = new Set();
  jobs.forEach((job, index) => {
    seen.add(job.id);
    const text = JSON.stringify(job);
    const known = state.jobs.get(job.id);
    if (known?.text === text) return;
    const row = line(job);
    if (known) known.row.replaceWith(row);
    else $("jobs").insertBefore(row, $("jobs").children[index] ?? null);
    if (known && known.state !== job.state) $("live").textContent = `${job.name}: ${job.state}`;
    state.jobs.set(job.id, { text, row, state: job.state });
  });
  for (const [id, { row }] of state.jobs) if (!seen.has(id)) (row.remove(), state.jobs.delete(id));
}

function line(job) {
  const what = element("td");
  if (job.state === "done") what.append(...reading(job));
  else if (job.state === "queued") what.append(job.ahead ? `waits for ${job.ahead} before it` : "next");
  else if (job.state === "running") {
    what.append(element("progress", { max: job.tiles_total ?? 1, value: job.tiles_done, ariaLabel: `${job.name}: tiles scored` }));
    if (!job.tiles_total) what.firstChild.removeAttribute("value");
    const left = job.remaining_s === null ? "" : `, ${duration(job.remaining_s)} left`;
    what.append(element("div", { className: "quiet", textContent: job.tiles_total ? `${job.tiles_done} of ${job.tiles_total} tiles${left}` : job.stage || "begins" }));
  } else {
    what.append(element("span", { className: `state-${job.state}`, textContent: job.state }));
    if (job.message) what.append(element("p", { className: "why", textContent: job.hint ? `${job.message} → ${job.hint}` : job.message }));
  }
  const act = element("td");
  if (job.state === "done") act.append(element("a", { href: `jobs/${job.id}`, textContent: "Open", ariaLabel: `Open the result of ${job.name}` }));
  else if (job.state === "queued" || job.state === "running") act.append(element("button", { type: "button", textContent: "Cancel", ariaLabel: `Cancel ${job.name}`, onclick: () => cancel(job.id) }));
  const row = element("tr", {}, element("th", { scope: "row", textContent: job.slide }), element("td", { textContent: job.model }), what, when(job), act);
  row.dataset.job = job.id;
  row.dataset.state = job.state;
  return row;
}

// The reading, and beside it what makes it doubtful.
function reading(job) {
  if (!job.readings.length) return [element("span", { className: "state-done", textContent: "done" })];
  return job.readings.flatMap((r) => [
    element("div", { className: "reading-text", textContent: r.text }),
    ...(r.flags.length ? [element("ul", { className: "chips", ariaLabel: `Flags of ${job.name}` }, ...r.flags.map((f) => element("li", { textContent: f })))] : []),
  ]);
}

const clock = (unix_s) => new Date(unix_s * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });

function when(job) {
  const at = job.ended_unix_s ?? job.started_unix_s ?? job.created_unix_s;
  const word = job.ended_unix_s ? "" : job.started_unix_s ? "began " : "submitted ";
  const cell = element("td", { className: "when" }, `${word}${clock(at)}`);
  if (job.ended_unix_s && job.started_unix_s) cell.append(element("div", { className: "quiet", textContent: `took ${duration(job.ended_unix_s - job.started_unix_s)}` }));
  return cell;
}

function turn(befores) {
  state.befores = befores;
  refresh().catch((error) => banner(error.message));
}

async function cancel(id) {
  try {
    const response = await fetch(`api/jobs/${id}`, { method: "DELETE" });
    if (!response.ok) throw new Refused(response.status, await response.json());
    await refresh();
  } catch (error) {
    banner(error.message);
  }
}

function upload(event) {
  event.preventDefault();
  const file = $("file").files[0];
  if (!file) return banner("Choose a file to upload.");
  const request = new XMLHttpRequest(); // fetch does not tell how much is up
  request.open("PUT", `api/uploads/${encodeURIComponent(file.name)}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.onprogress = (e) => ($("uploading").value = e.total ? e.loaded / e.total : 0);
  request.onloadend = () => {
    $("uploading").hidden = true;
    if (request.status === 201) return open("uploads");
    let problem = "the upload did not arrive.";
    try {
      problem = JSON.parse(request.responseText).message;
    } catch {
      // nothing said
    }
    banner(problem);
  };
  $("uploading").hidden = false;
  request.send(file);
}

async function watch() {
  try {
    if (!document.hidden) {
      await refresh();
      if ($("banner").dataset.lost) (banner(""), delete $("banner").dataset.lost);
    }
  } catch (error) {
    $("banner").dataset.lost = "yes";
    banner(error instanceof Refused ? error.message : "The server does not answer. Trying again…");
  }
  setTimeout(watch, POLL_MS);
}

async function begin() {
  $("submit").addEventListener("submit", submit);
  $("find").addEventListener("input", draw);
  $("all").addEventListener("click", () => {
    shownSlides().forEach((s) => state.chosen.add(s.path));
    draw();
  });
  $("older").addEventListener("click", () => turn([...state.befores, Number($("older").dataset.before)]));
  $("newer").addEventListener("click", () => turn(state.befores.slice(0, -1)));
  $("upload")?.addEventListener("submit", upload);
  try {
    const { models } = await get("api/models");
    $("model").append(
      ...models.map((m) => element("option", { value: m.id, disabled: Boolean(m.problem), textContent: m.problem ? `${m.id}: ${m.problem}` : `${m.id}${m.markers.length ? ` (${m.markers.join(", ")})` : ""}` })),
    );
  } catch (error) {
    banner(error.message);
  }
  await open("");
  watch();
}

if (document.body.classList.contains("serve")) begin();
