// Two canvases that always show the same part of the tile: zoom and pan are one.

import { CLASSES } from "./cells.js";

const COLOURS = { positive: "#e0261b", negative: "#1f4fe0", ignored: "#55535f", touched: "#c77700" };
const MAX_ZOOM = 12;

export class PairView {
  constructor(he, ihc, tilePx, onClick, onScale) {
    this.sides = [{ canvas: he }, { canvas: ihc }];
    this.tilePx = tilePx;
    this.onClick = onClick;
    this.onScale = onScale;
    this.shown = { positive: true, negative: true, ignored: false };
    this.cellsOnHe = false;
    this.pointer = null; // tile px: shown on the other side too
    this.cursor = null; // tile px: the keyboard's cross hair
    this.tile = null;
    this.frame = 0;
    for (const side of this.sides) this.listen(side.canvas);
    new ResizeObserver(() => this.resize()).observe(ihc);
    this.resize();
  }

  show(tile) {
    this.tile = tile;
    this.draw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const before = this.fit;
    for (const { canvas } of this.sides) {
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    }
    const { width, height } = this.sides[1].canvas;
    this.fit = Math.min(width, height) / this.tilePx;
    if (!before || Math.abs(this.zoom - before) < 1e-9) this.reset();
    else this.settle();
  }

  reset() {
    this.zoom = this.fit;
    this.x = this.y = this.tilePx / 2;
    this.settle();
  }

  settle() {
    this.zoom = Math.min(Math.max(this.zoom, this.fit), MAX_ZOOM);
    const { width, height } = this.sides[1].canvas;
    const half = [width / 2 / this.zoom, height / 2 / this.zoom];
    const keep = (value, h) => (2 * h >= this.tilePx ? this.tilePx / 2 : Math.min(Math.max(value, h), this.tilePx - h));
    this.x = keep(this.x, half[0]);
    this.y = keep(this.y, half[1]);
    this.onScale(this.zoom);
    this.request();
  }

  zoomBy(factor, at = null) {
    const [x, y] = at ?? [this.x, this.y];
    const zoom = Math.min(Math.max(this.zoom * factor, this.fit), MAX_ZOOM);
    this.x = x + ((this.x - x) * this.zoom) / zoom;
    this.y = y + ((this.y - y) * this.zoom) / zoom;
    this.zoom = zoom;
    this.settle();
  }

  panBy(dx, dy) {
    this.x += dx / this.zoom;
    this.y += dy / this.zoom;
    this.settle();
  }

  reveal(x, y) {
    const { width, height } = this.sides[1].canvas;
    if (Math.abs(x - this.x) * this.zoom > width / 2 - 20) this.x = x;
    if (Math.abs(y - this.y) * this.zoom > height / 2 - 20) this.y = y;
    this.settle();
  }

  at(canvas, event) {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return [
      this.x + ((event.clientX - box.left) * ratio - canvas.width / 2) / this.zoom,
      this.y + ((event.clientY - box.top) * ratio - canvas.height / 2) / this.zoom,
    ];
  }

  listen(canvas) {
    let drag = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.0025), this.at(canvas, event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      drag = { x: event.clientX, y: event.clientY, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag) {
        const ratio = canvas.width / canvas.getBoundingClientRect().width;
        const [dx, dy] = [drag.x - event.clientX, drag.y - event.clientY];
        if (drag.moved || Math.hypot(dx, dy) > 4) {
          this.panBy(dx * ratio, dy * ratio);
          drag = { x: event.clientX, y: event.clientY, moved: true };
        }
      }
      this.pointer = this.at(canvas, event);
      this.request();
    });
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.request();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved && canvas === this.sides[1].canvas) this.onClick(...this.at(canvas, event), event.shiftKey);
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
  }

  request() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.sides.forEach(({ canvas }, index) => this.drawSide(canvas, index === 0 ? "he" : "ihc"));
  }

  drawSide(canvas, side) {
    const context = canvas.getContext("2d", { alpha: false });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#dddae4"; // not white: the edge of the tile shows
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.tile?.[side].width) return; // nothing, or its pixels have been given back
    const z = this.zoom;
    context.setTransform(z, 0, 0, z, canvas.width / 2 - this.x * z, canvas.height / 2 - this.y * z);
    context.imageSmoothingEnabled = z < 3; // pixels stay pixels when they are looked at
    context.imageSmoothingQuality = "medium";
    context.drawImage(this.tile[side], 0, 0, this.tilePx, this.tilePx);
    if (this.tile.cells && (side === "ihc" || this.cellsOnHe)) this.drawCells(context);
    if (this.pointer) this.cross(context, this.pointer, "#00000090", 14);
    if (this.cursor) this.cross(context, this.cursor, "#b3261e", 26);
  }

  drawCells(context) {
    const shapes = this.tile.cells.shapes();
    const ratio = window.devicePixelRatio || 1;
    const stroke = (name, width) => {
      context.lineWidth = (width * ratio + 1.6 * ratio) / this.zoom;
      context.strokeStyle = "#ffffffc0"; // a light rim, so that the mark is seen on brown and on blue
      context.stroke(shapes[name]);
      context.lineWidth = (width * ratio) / this.zoom;
      context.strokeStyle = COLOURS[name];
      context.stroke(shapes[name]);
    };
    for (const name of CLASSES) if (this.shown[name]) stroke(name, 1.6);
    stroke("touched", 1.2);
  }

  cross(context, [x, y], colour, size) {
    const s = (size * (window.devicePixelRatio || 1)) / this.zoom;
    context.lineWidth = (1.5 * (window.devicePixelRatio || 1)) / this.zoom;
    context.strokeStyle = colour;
    context.beginPath();
    context.moveTo(x - s, y);
    context.lineTo(x - s / 4, y);
    context.moveTo(x + s / 4, y);
    context.lineTo(x + s, y);
    context.moveTo(x, y - s);
    context.lineTo(x, y - s / 4);
    context.moveTo(x, y + s / 4);
    context.lineTo(x, y + s);
    context.stroke();
  }
}
