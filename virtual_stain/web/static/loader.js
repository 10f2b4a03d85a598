// Tiles fetched and decoded before they are asked for; few are kept, so that memory stays flat.

import { get, getBlob } from "./api.js";
import { Cells } from "./cells.js";

const KEPT = 9;

export const keyOf = (item) => `${item.pair}/${item.col}/${item.row}/${item.label_id}`;
const pathOf = (item) => `api/review/tiles/${encodeURIComponent(item.pair)}/${item.col}/${item.row}`;

export class Loader {
  constructor(reader) {
    this.reader = reader;
    this.tiles = new Map(); // key → { promise, tile }
  }

  load(item) {
    const key = keyOf(item);
    let entry = this.tiles.get(key);
    if (!entry) {
      entry = { tile: null };
      entry.promise = this.fetch(item).then(
        (tile) => (entry.tile = tile),
        (error) => {
          this.tiles.delete(key);
          throw error;
        },
      );
      entry.promise.catch(() => {}); // whoever shows it hears of it
    }
    this.tiles.delete(key);
    this.tiles.set(key, entry); // newest last
    return entry;
  }

  async fetch(item) {
    const path = pathOf(item);
    const picture = async (side) => createImageBitmap(await getBlob(`${path}/${side}.jpg?label_id=${item.label_id}`));
    const [detail, he, ihc] = await Promise.all([get(path), picture("he"), picture("ihc")]);
    if (detail.item.label_id !== item.label_id) throw new Error("This tile has been built anew: load the page again.");
    return this.own({ item: detail.item, he, ihc, detail });
  }

  // One's own correction; another reader's cells must not slip into one's verdict.
  own(tile) {
    tile.detail.correction = tile.detail.corrections.find((c) => c.reviewer === this.reader())?.correction ?? null;
    tile.cells = new Cells(tile.detail);
    return tile;
  }

  // What is not needed any more gives its pixels back; corrections that are not saved stay.
  trim(current) {
    for (const [key, entry] of this.tiles) {
      if (this.tiles.size <= KEPT) return;
      if (key === current || !entry.tile) continue;
      entry.tile.he.close();
      entry.tile.ihc.close();
      this.tiles.delete(key);
    }
  }

  forget(item) {
    const entry = this.tiles.get(keyOf(item));
    if (entry?.tile) {
      entry.tile.he.close();
      entry.tile.ihc.close();
    }
    this.tiles.delete(keyOf(item));
  }
}
