// The HTTP API in three functions; a refusal becomes an Error with the server's sentence.

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.hint ? `${problem.message} → ${problem.hint}` : problem.message);
    this.status = status;
  }
}

async function answer(response) {
  if (response.ok) return response;
  let problem = { message: `the server answered ${response.status}` };
  try {
    problem = await response.json();
  } catch {
    // not one of ours: the status has to do
  }
  if (response.status === 401) location.assign("login");
  throw new Refused(response.status, problem);
}

export async function get(path, signal) {
  return (await answer(await fetch(path, { signal, headers: { Accept: "application/json" } }))).json();
}

export async function getBlob(path, signal) {
  return (await answer(await fetch(path, { signal }))).blob();
}

export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
  });
  return (await answer(response)).json();
}

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A value in the unit of its report: a fraction as per cent, a count as cells per mm².
export const inUnit = (value, unit) =>
  unit === "cells/mm2" ? (value === null || value === undefined ? "–" : `${Math.round(value).toLocaleString("en")} /mm²`) : percent(value);
export const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : `${(value * 100).toFixed(digits)} %`);
