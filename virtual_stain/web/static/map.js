// The overview of the slide: where the tiles lie, what was decided about them, and which one is shown.

import { get, getBlob } from "./api.js";

const COLOURS = { accept: "#1b8a3ecc", reject: "#d0302acc", skip: "#8a8796cc", disputed: "#e08a00", stale: "#e08a00" };

export class SlideMap {
  constructor(canvas, onPick) {
    this.canvas = canvas;
    this.onPick = onPick;
    this.items = [];
    this.pair = null;
    this.current = null;
    this.aim = null;
    canvas.addEventListener("click", (event) => {
      const item = this.at(event);
      if (item) onPick(item);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.setAim(null));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  async show(item, items) {
    this.current = item;
    this.items = items.filter((i) => i.pair === item.pair);
    if (this.pair !== item.pair) {
      this.pair = item.pair;
      this.picture = null;
      const path = `api/review/pairs/${encodeURIComponent(item.pair)}/overview`;
      try {
        const frame = await get(path);
        if (this.pair !== item.pair) return;
        this.frame = frame;
        this.draw();
        const picture = await createImageBitmap(await getBlob(`${path}.jpg`));
        if (this.pair === item.pair) this.picture = picture;
      } catch {
        this.picture = null; // the grid alone still shows the place
      }
    }
    this.draw();
  }

  scale() {
    return this.canvas.width / this.frame.width;
  }

  box(item) {
    const { x_px0, y_px0, px0_per_px } = this.frame;
    const s = this.scale() / px0_per_px;
    return [(item.x_px0 - x_px0) * s, (item.y_px0 - y_px0) * s, item.width_px0 * s, item.height_px0 * s];
  }

  draw() {
    if (!this.frame || !this.canvas.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    const high = Math.min(this.canvas.clientWidth * (this.frame.height / this.frame.width), 420);
    this.canvas.style.height = `${Math.round(high)}px`;
    this.canvas.width = Math.round(((high * this.frame.width) / this.frame.height) * ratio);
    this.canvas.height = Math.round(high * ratio);
    this.canvas.style.width = `${Math.round(this.canvas.width / ratio)}px`;
    const context = this.canvas.getContext("2d");
    if (this.picture) context.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
    for (const item of this.items) {
      const [x, y, w, h] = this.box(item);
      const colour = COLOURS[item.status];
      if (colour) {
        context.fillStyle = colour;
        context.fillRect(x + w * 0.3, y + h * 0.3, w * 0.4, h * 0.4);
      }
    }
    this.outline(context, this.current, "#ffffff", 5 * ratio);
    this.outline(context, this.current, "#5b3a86", 2.5 * ratio);
    if (this.aim) this.outline(context, this.aim, "#b3261e", 2.5 * ratio);
  }

  outline(context, item, colour, width) {
    if (!item || item.pair !== this.pair) return;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(...this.box(item));
  }

  at(event) {
    if (!this.frame) return null;
    const rect = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / rect.width;
    const [px, py] = [(event.clientX - rect.left) * ratio, (event.clientY - rect.top) * ratio];
    return this.items.find((item) => {
      const [x, y, w, h] = this.box(item);
      return px >= x && px < x + w && py >= y && py < y + h;
    });
  }

  setAim(item) {
    this.aim = item;
    this.draw();
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const from = this.aim ?? this.current;
      const ahead = (i) => (step[0] ? (i.col - from.col) * step[0] : (i.row - from.row) * step[1]);
      const aside = (i) => (step[0] ? Math.abs(i.row - from.row) : Math.abs(i.col - from.col));
      const best = this.items.filter((i) => ahead(i) > 0).sort((a, b) => ahead(a) + 2 * aside(a) - ahead(b) - 2 * aside(b))[0];
      if (best) this.setAim(best);
    } else if (event.key === "Enter" && this.aim) {
      this.onPick(this.aim);
    } else if (event.key === "Escape") {
      this.canvas.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
