// One scored slide: overview with heat map, readings, histogram, top tiles.

import { $, element, get, getBlob, inUnit, percent } from "./api.js";

const TOP = 30;
// viridis, read at nine places: even steps of lightness, also for colour-blind readers
const SCALE = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const DOWNLOADS = [["report.html", "HTML report"], ["report.json", "JSON"], ["tiles.csv", "CSV"], ["geojson", "GeoJSON"], ["heatmap.png", "PNG"]];
const LABELS = { ki67: "Ki67", er: "ER", pr: "PR", her2: "HER2", pdl1: "PD-L1" };

const number = $("slide").dataset.job;
const state = { data: null, picture: null, marker: null, range: [0, 1], aim: null };

function banner(text) {
  $("banner").hidden = !text;
  $("banner").textContent = text;
  $("banner").classList.add("bad");
}

const column = (name) => state.data.tiles.columns[name] ?? [];
// of another value than the positive ratio the column says which
const valueColumn = (marker) => {
  const definition = state.data.report.readings[marker].value_definition;
  return column(definition === "positive_ratio" ? marker : `${marker}_${definition}`);
};
const unit = () => state.data.report.readings[state.marker].unit;
const shown = (value) => inUnit(value, unit());
const bounds = () => state.data.report.slide.bounds_px0;

function colour(value) {
  const [low, high] = state.range;
  const at = Math.min(1, Math.max(0, (value - low) / (high - low || 1))) * (SCALE.length - 1);
  return SCALE[Math.round(at)];
}

// a tile may carry a reading of one marker and not of another
const usedColumn = (marker) => state.data.tiles.columns[`used_${marker}`] ?? column("used");

function used() {
  const values = valueColumn(state.marker);
  const flags = usedColumn(state.marker);
  return values.flatMap((v, i) => (flags[i] && v !== null ? [i] : []));
}

// ---- heat map

function draw() {
  const canvas = $("heat");
  const [, , width, height] = bounds();
  const ratio = window.devicePixelRatio || 1;
  const wide = canvas.parentElement.clientWidth - 36;
  const scale = Math.min(wide / width, (window.innerHeight * 0.74) / height);
  canvas.style.width = `${Math.round(width * scale)}px`;
  canvas.style.height = `${Math.round(height * scale)}px`;
  canvas.width = Math.round(width * scale * ratio);
  canvas.height = Math.round(height * scale * ratio);
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (state.picture) context.drawImage(state.picture, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = $("opacity").value / 100;
  const values = valueColumn(state.marker);
  const inside = usedColumn(state.marker);
  for (let i = 0; i < values.length; i += 1) {
    if (values[i] === null) continue;
    const [x, y, w, h] = box(i);
    context.fillStyle = inside[i] ? colour(values[i]) : "#8a8796";
    if (inside[i]) context.fillRect(x, y, w, h);
    else context.fillRect(x + w * 0.4, y + h * 0.4, w * 0.2, h * 0.2); // not in the reading: a dot
  }
  context.globalAlpha = 1;
  if (state.aim !== null) {
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#b3261e";
    context.strokeRect(...box(state.aim));
  }
}

function box(i) {
  const [bx, by, width] = bounds();
  const s = $("heat").width / width;
  return [(column("x")[i] - bx) * s, (column("y")[i] - by) * s, column("width")[i] * s, column("height")[i] * s];
}

function tileAt(event) {
  const canvas = $("heat");
  const rect = canvas.getBoundingClientRect();
  const [px, py] = [((event.clientX - rect.left) * canvas.width) / rect.width, ((event.clientY - rect.top) * canvas.height) / rect.height];
  return column("col").findIndex((_, i) => {
    const [x, y, w, h] = box(i);
    return px >= x && px < x + w && py >= y && py < y + h;
  });
}

function say(i) {
  const cells = column(`${state.marker}_tumour_cells`)[i];
  const flags = column("flags")[i];
  return `column ${column("col")[i]}, row ${column("row")[i]}: ${shown(valueColumn(state.marker)[i])}, ${cells === null ? "–" : Math.round(cells)} tumour cells expected${flags.length ? ` (${flags.join(", ")})` : ""}`;
}

function show(i) {
  if (i < 0) return;
  state.aim = i;
  draw();
  $("tile-title").textContent = say(i);
  $("tile-picture").alt = `H&E tile, ${say(i)}`;
  $("tile-picture").src = `api/jobs/${number}/tiles/${column("col")[i]}/${column("row")[i]}.jpg`;
  $("tile").showModal();
}

function move(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step) {
    const from = state.aim ?? column("col").findIndex(() => true);
    const [col, row] = [column("col"), column("row")];
    const ahead = (i) => (step[0] ? (col[i] - col[from]) * step[0] : (row[i] - row[from]) * step[1]);
    const aside = (i) => (step[0] ? Math.abs(row[i] - row[from]) : Math.abs(col[i] - col[from]));
    let best = state.aim === null ? from : -1;
    if (state.aim !== null) col.forEach((_, i) => ahead(i) > 0 && (best < 0 || ahead(i) + 2 * aside(i) < ahead(best) + 2 * aside(best)) && (best = i));
    if (best >= 0) {
      state.aim = best;
      $("hover").textContent = say(best);
      draw();
    }
  } else if (event.key === "Enter" && state.aim !== null) show(state.aim);
  else return;
  event.preventDefault();
}

// ---- the rest of the page

// what is counted, where it is not the positive ratio that a pathologist expects
function meaning(r) {
  if (r.her2) return "HER2-stained tumour cells (1+ to 3+) / tumour cells";
  const kind = r.value_definition.startsWith("negative") ? "negative" : "positive";
  return `${LABELS[state.marker] ?? state.marker}-${kind} tumour cells${r.unit === "fraction" ? " / tumour cells" : " per mm²"}`;
}

function reading() {
  const r = state.data.report.readings[state.marker];
  const { interval } = r; // of the global ratio; null with its reason in the warnings
  const rows = [
    ...(r.her2 ? [["HER2 score", r.her2.score === null ? `– (${r.her2.reason})` : [r.her2.score, r.her2.note].filter(Boolean).join(": ")]] : []),
    ...(r.her2?.fractions ? [["Tumour cells 0 / 1+ / 2+ / 3+", Object.values(r.her2.fractions).map((f) => percent(f)).join(" / ")]] : []),
    ["Value", meaning(r)],
    [`Mean of the top ${r.top_n ?? TOP}`, shown(r.top_mean)],
    ["Global mean", shown(r.global_mean)],
    [unit() === "fraction" ? "Global ratio (weighted by expected cells)" : "Cells per mm² of tissue", shown(r.global_ratio)],
    [interval ? `${percent(interval.level, 0)} interval of the global ratio` : "Interval", interval ? `${shown(interval.low)} to ${shown(interval.high)}` : "none: see the warnings"],
    ...(typeof interval?.calibrated === "number" ? [["Calibrated global ratio", shown(interval.calibrated)]] : []),
    ["Tiles in the reading", r.n_tiles],
    ["Expected tumour cells", r.expected_tumour_cells === null || r.expected_tumour_cells === undefined ? "–" : Math.round(r.expected_tumour_cells)],
  ];
  for (const [name, value] of Object.entries(r.quantiles ?? {})) rows.push([`Quantile ${name}`, shown(value)]);
  if (r.flags?.length) rows.push(["Flags", r.flags.join(", ")]);
  $("readings").replaceChildren(...rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row", textContent: name }), element("td", { textContent: value }))));
}

// 1, 2 or 5 times a power of ten, not below the value
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((s) => s * power).find((s) => s >= value);
}

function histogram() {
  const canvas = $("histogram");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  const bins = new Array(20).fill(0);
  const values = used().map((i) => valueColumn(state.marker)[i]);
  const top = unit() === "fraction" ? 1 : niceTop(Math.max(0, ...values));
  for (const v of values) bins[Math.min(19, Math.floor((v / top) * 20))] += 1;
  const most = Math.max(1, ...bins);
  const [bottom, step] = [canvas.height - 20 * ratio, canvas.width / 20];
  bins.forEach((n, i) => {
    const high = (n / most) * (bottom - 16 * ratio);
    context.fillStyle = "#5b3a86";
    context.fillRect(i * step + ratio, bottom - high, step - 2 * ratio, high);
  });
  context.fillStyle = "#1c1b22";
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  [0, 1, 2, 3, 4].forEach((i) => {
    const text = unit() === "fraction" ? `${25 * i} %` : `${((top * i) / 4).toLocaleString("en")}${i === 4 ? " /mm²" : ""}`;
    context.textAlign = i === 0 ? "left" : i === 4 ? "right" : "center";
    context.fillText(text, (canvas.width * i) / 4, canvas.height - 5 * ratio);
  });
  context.textAlign = "left";
  context.fillText(`${most} tiles`, 0, 12 * ratio);
  canvas.setAttribute("aria-label", `Histogram of ${values.length} tiles in steps of ${unit() === "fraction" ? "5 per cent" : `${top / 20} per mm²`}: ${bins.join(", ")}`);
}

function gallery() {
  const values = valueColumn(state.marker);
  const best = used().sort((a, b) => values[b] - values[a]).slice(0, TOP);
  $("gallery-title").textContent = best.length ? `Top ${best.length} tiles` : "Top tiles: no tile carries a reading";
  $("gallery").replaceChildren(
    ...best.map((i, rank) =>
      element("li", {}, element("button", { type: "button", onclick: () => show(i), ariaLabel: `Tile ${rank + 1}: ${say(i)}` },
        element("img", { loading: "lazy", alt: "", src: `api/jobs/${number}/tiles/${column("col")[i]}/${column("row")[i]}.jpg?px=192` }),
        element("span", { textContent: `${rank + 1}. ${shown(values[i])}` }))),
    ),
  );
}

function facts() {
  const { report, job } = state.data;
  const { slide, model, tiles } = report;
  const rows = [
    ["slide", slide.name], ["format", slide.format], ["pixel size", `${slide.mpp_x?.toFixed(4)} × ${slide.mpp_y?.toFixed(4)} µm (${slide.mpp_origin})`],
    ["tissue", slide.tissue_mm2 === undefined ? "–" : `${slide.tissue_mm2.toFixed(1)} mm²`], ["tiles scored / not read", `${tiles.scored} / ${tiles.failed}`],
    ["model", `${model.name} ${model.version} (${job.model})`], ["sha256 of the model", model.sha256?.slice(0, 16)],
  ];
  $("facts").replaceChildren(...rows.flatMap(([a, b]) => [element("dt", { textContent: a }), element("dd", { textContent: b ?? "–" })]));
  $("warnings").replaceChildren(...report.warnings.map((w) => element("li", { textContent: w.message })));
  if (!report.warnings.length) $("warnings").append(element("li", { textContent: "none" }));
  $("downloads").replaceChildren(
    element("a", { href: `api/jobs/${number}/files/report.html?show=true`, target: "_blank", rel: "noopener", textContent: "Open report" }),
    ...DOWNLOADS.map(([kind, text]) => element("a", { href: `api/jobs/${number}/files/${kind}`, download: "", textContent: text })),
  );
}

function choose(marker) {
  state.marker = marker;
  const values = used().map((i) => valueColumn(marker)[i]);
  state.range = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const text = element("div", { className: "legend-text" }, element("span", { textContent: shown(state.range[0]) }), element("span", { textContent: shown(state.range[1]) }));
  const ramp = element("canvas", { width: SCALE.length, height: 1 });
  SCALE.forEach((c, i) => {
    const context = ramp.getContext("2d");
    context.fillStyle = c;
    context.fillRect(i, 0, 1, 1);
  });
  Object.assign(ramp.style, { width: "100%", height: "12px", display: "block" });
  $("legend").replaceChildren(ramp, text);
  reading();
  histogram();
  gallery();
  draw();
}

async function begin() {
  try {
    state.data = await get(`api/jobs/${number}/result`);
  } catch (error) {
    return banner(error.message);
  }
  $("slide").textContent = state.data.report.slide.name;
  document.title = `${state.data.report.slide.name} – vstain`;
  const { markers } = state.data.tiles;
  $("marker").append(...markers.map((m) => element("option", { value: m, textContent: LABELS[m] ?? m })));
  facts();
  choose(markers[0]);
  $("marker").addEventListener("change", () => choose($("marker").value));
  $("opacity").addEventListener("input", draw);
  window.addEventListener("resize", draw);
  const heat = $("heat");
  heat.addEventListener("click", (event) => show(tileAt(event)));
  heat.addEventListener("pointermove", (event) => {
    const i = tileAt(event);
    $("hover").textContent = i < 0 ? "" : say(i);
  });
  heat.addEventListener("keydown", move);
  try {
    state.picture = await createImageBitmap(await getBlob(`api/jobs/${number}/overview.jpg`));
    draw();
  } catch (error) {
    banner(error.message);
  }
  document.body.dataset.ready = "yes";
}

begin();
