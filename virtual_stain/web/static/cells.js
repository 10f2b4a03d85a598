// The counted cells of one tile and what a person has changed about them.

export const CLASSES = ["positive", "negative", "ignored"];
export const INTENSITIES = ["1+", "2+", "3+"]; // HER2: positive cells by intensity; "positive" is one whose intensity is unknown
const NEXT = { positive: "negative", negative: "ignored", ignored: "positive" };
const NEXT_WITH_INTENSITY = { negative: "1+", "1+": "2+", "2+": "3+", "3+": "ignored", ignored: "negative", positive: "1+" };

export const classOf = (name) => (INTENSITIES.includes(name) ? "positive" : name);

export class Cells {
  constructor(tile) {
    this.counted = tile.name.map((name, i) => ({ x: tile.x[i], y: tile.y[i], name, counted: name, index: i, removed: false }));
    this.added = [];
    this.hasIntensities = tile.has_intensities;
    this.paths = null;
    if (tile.correction) this.apply(tile.correction);
  }

  apply(correction) {
    for (const [i, name] of correction.changed) this.counted[i].name = name;
    for (const i of correction.removed) this.counted[i].removed = true;
    for (const [x, y, name] of correction.added) this.added.push({ x, y, name, index: null, removed: false });
    this.paths = null;
  }

  all() {
    return [...this.counted.filter((c) => !c.removed), ...this.added];
  }

  counts() {
    let positive = 0;
    let negative = 0;
    const intensities = [0, 0, 0];
    for (const cell of this.all()) {
      const cellClass = classOf(cell.name);
      if (cellClass === "positive") positive += 1;
      else if (cellClass === "negative") negative += 1;
      if (INTENSITIES.includes(cell.name)) intensities[INTENSITIES.indexOf(cell.name)] += 1;
    }
    const n = positive + negative;
    const ratio = n ? positive / n : null;
    return { positive, negative, intensities, unknown: positive - intensities[0] - intensities[1] - intensities[2], ratio, error: n ? Math.sqrt((ratio * (1 - ratio)) / n) : null };
  }

  nearest(x, y, reach, shown) {
    let best = null;
    let distance = reach * reach;
    for (const cell of this.all()) {
      if (!shown[classOf(cell.name)]) continue;
      const d = (cell.x - x) ** 2 + (cell.y - y) ** 2;
      if (d <= distance) [best, distance] = [cell, d];
    }
    return best;
  }

  cycle(cell) {
    cell.name = (this.hasIntensities ? NEXT_WITH_INTENSITY : NEXT)[cell.name];
    this.paths = null;
  }

  remove(cell) {
    if (cell.index === null) this.added.splice(this.added.indexOf(cell), 1);
    else cell.removed = true;
    this.paths = null;
  }

  add(x, y, name) {
    this.added.push({ x: Math.round(x * 100) / 100, y: Math.round(y * 100) / 100, name, index: null, removed: false });
    this.paths = null;
  }

  correction() {
    const changed = this.counted.filter((c) => !c.removed && c.name !== c.counted).map((c) => [c.index, c.name]);
    const removed = this.counted.filter((c) => c.removed).map((c) => c.index);
    const added = this.added.map((c) => [c.x, c.y, c.name]);
    return changed.length + removed.length + added.length ? { changed, removed, added } : null;
  }

  // One path a class, in tile px: drawing 800 cells is three strokes.
  shapes() {
    if (this.paths) return this.paths;
    const paths = Object.fromEntries([...CLASSES, "touched"].map((k) => [k, new Path2D()]));
    for (const cell of this.all()) {
      const { x, y } = cell;
      const path = paths[classOf(cell.name)];
      if (classOf(cell.name) === "positive") {
        // as many rings as the intensity says; where it is unknown one with a bar
        const rings = this.hasIntensities ? INTENSITIES.indexOf(cell.name) + 1 : 1;
        for (let ring = 0; ring < Math.max(rings, 1); ring += 1) {
          path.moveTo(x + 9 - 3 * ring, y);
          path.arc(x, y, 9 - 3 * ring, 0, 2 * Math.PI);
        }
        if (rings === 0) {
          path.moveTo(x - 9, y);
          path.lineTo(x + 9, y);
        }
      } else if (cell.name === "negative") {
        path.moveTo(x, y - 10);
        path.lineTo(x + 10, y);
        path.lineTo(x, y + 10);
        path.lineTo(x - 10, y);
        path.closePath();
      } else {
        path.moveTo(x - 6, y - 6);
        path.lineTo(x + 6, y + 6);
        path.moveTo(x + 6, y - 6);
        path.lineTo(x - 6, y + 6);
      }
      if (cell.index === null || cell.name !== cell.counted) paths.touched.rect(x - 14, y - 14, 28, 28);
    }
    this.paths = paths;
    return paths;
  }
}
