// One scored slide: overview with heat map, readings, histogram, top tiles.

import { $, element, get, getBlob, inUnit } from "./api.js";

const TOP = 30;
const LEGEND_PX = 84; // beside the slide, where there is room
const DOWNLOADS = [["report.html", "HTML report"], ["report.json", "JSON"], ["tiles.csv", "CSV"], ["geojson", "GeoJSON"], ["heatmap.png", "PNG"]];
const LABELS = { ki67: "Ki67", er: "ER", pr: "PR", her2: "HER2", pdl1: "PD-L1" };

const number = $("slide").dataset.job;
const state = { data: null, picture: null, virtual: null, view: "heat", marker: null, aim: null };

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

// The same colour for the same value on every slide, as in the PNG and the report.
function colour(value) {
  const { top, gamma, colours } = state.data.scale;
  return colours[Math.round(Math.min(1, Math.max(0, value / top)) ** gamma * (colours.length - 1))];
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
  const narrow = canvas.parentElement.clientWidth < 520;
  const wide = canvas.parentElement.clientWidth - (narrow ? 0 : LEGEND_PX);
  const high = Math.min((wide * height) / width, window.innerHeight * 0.74);
  canvas.style.width = `${Math.round(wide)}px`;
  canvas.style.height = `${Math.round(high)}px`;
  canvas.width = Math.round(wide * ratio);
  canvas.height = Math.round(high * ratio);
  const context = canvas.getContext("2d");
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const { left, scale } = place();
  // grey below the colours: on a stained picture they would mix with the stain and no longer match the legend
  const heat = state.view === "heat";
  context.filter = heat && $("opacity").value > 0 ? "grayscale(1) contrast(0.6) brightness(1.25)" : "none";
  const picture = state.view === "virtual" ? state.virtual : state.picture;
  if (picture) context.drawImage(picture, left, 0, width * scale, height * scale);
  context.filter = "none";
  context.globalAlpha = $("opacity").value / 100;
  const values = valueColumn(state.marker);
  const inside = usedColumn(state.marker);
  for (let i = 0; heat && i < values.length; i += 1) {
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
  scaleBar(context, ratio);
  $("legend").hidden = !heat;
  $("opacity").disabled = !heat;
  if (heat) legend(narrow);
}

// ---- H&E | virtual | heat map: where a virtual slide was drawn

async function look(view) {
  state.view = view;
  const isVirtual = view === "virtual";
  $("virtual-note").hidden = !isVirtual;
  if (isVirtual && !state.virtual) {
    try {
      state.virtual = await createImageBitmap(await getBlob(`api/jobs/${number}/virtual.jpg`));
    } catch (error) {
      banner(error.message);
    }
  }
  $("heat").dataset.view = view;
  $("map-title").textContent = { he: "H&E", virtual: "Virtual slide", heat: "Heat map" }[view];
  $("scale-note").hidden = view !== "heat";
  draw();
}

function views() {
  const found = state.data.report.virtual;
  $("views").hidden = !found?.file;
  if (!found?.file) return;
  $("virtual-note").textContent = `VIRTUAL: ${found.notice}.`;
  document.querySelectorAll("#views input").forEach((input) => input.addEventListener("change", () => look(input.value)));
}

// Where the slide lies on the canvas: in the middle of its width, px of the canvas per level-0 px.
function place() {
  const [, , width, height] = bounds();
  const canvas = $("heat");
  const scale = Math.min(canvas.width / width, canvas.height / height);
  return { scale, left: (canvas.width - width * scale) / 2 };
}

function box(i) {
  const [bx, by] = bounds();
  const { scale: s, left } = place();
  return [left + (column("x")[i] - bx) * s, (column("y")[i] - by) * s, column("width")[i] * s, column("height")[i] * s];
}

// The longest of 1, 2, 5 · 10ⁿ µm that is at most a quarter of the slide's width.
function scaleBar(context, ratio) {
  const { slide } = state.data.report;
  const { scale, left } = place();
  const whole_um = bounds()[2] * slide.mpp_x;
  const power = 10 ** Math.floor(Math.log10(whole_um / 4));
  const um = [5, 2, 1].map((s) => s * power).find((s) => s <= whole_um / 4);
  const length = (um / slide.mpp_x) * scale;
  const [x, y] = [left + 12 * ratio, context.canvas.height - 14 * ratio];
  const text = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
  context.font = `${13 * ratio}px system-ui, sans-serif`;
  const wide = Math.max(length, context.measureText(text).width) + 12 * ratio;
  context.fillStyle = "#ffffffd0";
  context.fillRect(x - 6 * ratio, y - 22 * ratio, wide, 32 * ratio);
  context.fillStyle = "#000000";
  context.fillRect(x, y, length, 4 * ratio);
  context.textAlign = "left";
  context.fillText(text, x, y - 5 * ratio);
  context.canvas.dataset.scaleBar = text;
}

// Upright beside the slide, flat below it on a narrow screen; the ticks are the bounds of the classes.
function legend(narrow) {
  const canvas = $("legend");
  const ratio = window.devicePixelRatio || 1;
  const { colours, bounds: ticks, top, gamma } = state.data.scale;
  const [wide, high] = narrow ? [$("heat").clientWidth, 44] : [LEGEND_PX - 8, $("heat").clientHeight];
  Object.assign(canvas.style, { width: `${wide}px`, height: `${high}px` });
  Object.assign(canvas, { width: wide * ratio, height: high * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const [start, long] = narrow ? [10, wide - 30] : [10, high - 20];
  const at = (share) => (narrow ? start + share * long : start + (1 - share) * long);
  colours.forEach((c, i) => {
    context.fillStyle = c;
    const [a, b] = [at(i / colours.length), at((i + 1) / colours.length)];
    if (narrow) context.fillRect(a, 0, b - a + 0.5, 16);
    else context.fillRect(0, b, 16, a - b + 0.5);
  });
  context.fillStyle = "#1c1b22";
  context.font = "12px system-ui, sans-serif";
  let last = Infinity;
  for (const value of [...ticks].reverse()) {
    const spot = at((value / top) ** gamma);
    if (Math.abs(spot - last) < (narrow ? 42 : 14)) continue;
    last = spot;
    context.textAlign = narrow ? "center" : "left";
    context.fillText(tick(value), narrow ? spot : 20, narrow ? 32 : spot + 4);
  }
}

const tick = (value) => (unit() === "fraction" ? `${Math.round(value * 100)} %` : value.toLocaleString("en"));

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
  const drawn = state.view === "virtual";
  const src = `api/jobs/${number}/tiles/${column("col")[i]}/${column("row")[i]}.jpg${drawn ? "?virtual=true" : ""}`;
  $("tile-frame").replaceChildren(element("img", { id: "tile-picture", alt: `${drawn ? "Virtual, predicted" : "H&E"} tile, ${say(i)}`, src }));
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
  const lines = state.data.headlines[state.marker].map((line, i) =>
    element("div", { className: i === 0 ? "first" : line.name.startsWith("Mean of the top") ? "second" : "" },
      element("dt", { textContent: line.name }),
      element("dd", {}, element("b", { textContent: line.value }), ...(line.note ? [element("span", { className: "quiet", textContent: line.note })] : []))),
  );
  const indirect = state.data.report.virtual;
  if (indirect) {
    const value = indirect.counted === null ? "none" : shown(indirect.counted);
    const note = `expected ${indirect.expected === null ? "none" : shown(indirect.expected)}${indirect.flags.length ? ` (${indirect.flags.join(", ")})` : ""}`;
    lines.push(element("div", { className: "second" }, element("dt", { textContent: "Counted on the virtual picture" }),
      element("dd", {}, element("b", { textContent: value }), element("span", { className: "quiet", textContent: note }))));
  }
  lines.push(element("div", { className: "second" }, element("dt", { textContent: "What is counted" }), element("dd", { textContent: meaning(r) })));
  $("readings").replaceChildren(...lines);
  $("flags").replaceChildren(...state.data.flags[state.marker].map((f) => element("li", { textContent: f })));
  const evidence = state.data.report.model_evidence;
  $("evidence").hidden = !evidence;
  $("evidence").textContent = evidence ? evidence.sentences.join(" ") : "";
  $("evidence").classList.toggle("weak", Boolean(evidence?.is_weak));
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
    context.fillStyle = colour(((i + 0.5) / 20) * top);
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
  const span = values.length ? ` This slide: ${shown(Math.min(...values))} to ${shown(Math.max(...values))}.` : "";
  $("scale-note").textContent = `${state.data.scale.statement}${span} Grey dots: tissue that is not in the reading.`;
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
  views();
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
