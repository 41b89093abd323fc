"use strict";
// Asks /v1/status every two seconds and shows it. Everything is set as text, never as HTML.

const EVERY_MS = 2000;
const PATIENCE_MS = 10000;
const SILENT_MS = 60000; // a follower asks anew every thirty seconds
const at = (id) => document.getElementById(id);
let token = null; // in memory only
let answeredAt = null;

const known = (value) => value !== null && value !== undefined;

function number(value) {
  if (!known(value)) return null;
  if (typeof value === "bigint" || Number.isSafeInteger(value)) return value.toLocaleString("en");
  return "about " + value.toLocaleString("en");
}

function bytes(value) {
  if (!known(value)) return null;
  let size = Number(value);
  if (size < 1000) return size + (size === 1 ? " byte" : " bytes");
  for (const unit of ["kB", "MB", "GB"]) {
    size /= 1000;
    if (size < 999.95) return size.toFixed(1) + " " + unit;
  }
  return (size / 1000).toFixed(1) + " TB";
}

function seconds(value) {
  if (!known(value)) return null;
  if (value < 10) return value.toFixed(1) + " s";
  if (value < 120) return Math.round(value) + " s";
  if (value < 7200) return Math.round(value / 60) + " min";
  if (value < 172800) return Math.round(value / 3600) + " h";
  return Math.round(value / 86400) + " days";
}

const ago = (status, then) => (known(then) ? seconds(Math.max(status.now_unix_ms - then, 0) / 1000) + " ago" : null);

function fill(element, text, kind) {
  element.textContent = known(text) ? text : "unknown";
  if (!known(text)) element.classList.add("unknown");
  else if (kind) element.classList.add(kind);
  return element;
}

function figures(target, rows) {
  target.replaceChildren(
    ...rows.map(([name, text, kind, long]) => {
      const group = document.createElement("div");
      const term = document.createElement("dt");
      term.textContent = name;
      group.append(term, fill(document.createElement("dd"), text, kind));
      if (long) group.className = "long";
      return group;
    }),
  );
}

// columns: [name, class, value of an item as [text, kind]]; the first names the item
function table(target, items, columns, none) {
  if (!items.length) {
    target.textContent = none;
    return;
  }
  const found = document.createElement("table");
  const head = found.createTHead().insertRow();
  for (const [name, kind] of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = kind;
    cell.textContent = name;
    head.append(cell);
  }
  const body = found.createTBody();
  for (const item of items) {
    const row = body.insertRow();
    columns.forEach(([name, kind, value], index) => {
      const cell = document.createElement(index ? "td" : "th");
      if (!index) cell.scope = "row";
      cell.className = kind;
      cell.dataset.name = name;
      const span = document.createElement("span");
      const [text, color] = value(item);
      cell.append(fill(span, text, color));
      row.append(cell);
    });
  }
  target.replaceChildren(found);
}

const SLOT_KINDS = { reserved: "good", unreserved: "warn", lost: "bad" };

function showReplicas(status) {
  const state = (replica) => {
    if (replica.rebootstrapping) return ["loading a snapshot", "warn"];
    if (status.now_unix_ms - replica.last_seen_at_unix_ms > SILENT_MS) return ["silent", "bad"];
    return [known(replica.lag_records) ? "following" : "registered"];
  };
  const behind = (replica, text) => [text, known(text) && Number(replica.lag_records) > 0 ? "warn" : "good"];
  table(
    at("replicas"),
    status.replicas,
    [
      ["replica", "", (each) => [each.id]],
      ["region", "", (each) => [each.region ?? "none"]],
      ["state", "", (each) => state(each)],
      ["lag, records", "number", (each) => behind(each, number(each.lag_records))],
      ["lag, bytes", "number", (each) => behind(each, bytes(each.lag_bytes))],
      ["lag, time", "number", (each) => behind(each, seconds(each.lag_seconds))],
      ["durable LSN", "number", (each) => [known(each.lag_records) ? number(each.last_durable_lsn) : null]],
      ["last seen", "number", (each) => [ago(status, each.last_seen_at_unix_ms)]],
      ["apply errors", "number", (each) => [number(each.apply_error_count), each.apply_error_count ? "bad" : ""]],
      ["diverged", "number", (each) => [number(each.divergence_count), each.divergence_count ? "bad" : ""]],
    ],
    "No replica is registered.",
  );
}

function showSlots(status) {
  const held = new Map(status.retention.slots.map((each) => [each.id, each]));
  const state = (slot) => slot.wal_status + (slot.invalidation_reason ? ": " + slot.invalidation_reason : "");
  at("pins").textContent = status.retention.summary;
  table(
    at("slots"),
    status.slots,
    [
      ["slot", "", (each) => [each.id]],
      ["state", "", (each) => [state(each), SLOT_KINDS[each.wal_status]]],
      ["pins the log", "", (each) => (held.get(each.id)?.pins ? ["yes", Number(each.retained_bytes) ? "warn" : ""] : ["no"])],
      ["holds, records", "number", (each) => [number(held.get(each.id)?.records)]],
      ["holds, bytes", "number", (each) => [bytes(each.retained_bytes)]],
      ["above LSN", "number", (each) => [number(each.restart_lsn)]],
      ["last seen", "number", (each) => [ago(status, each.last_seen_at_unix_ms)]],
      ["until when", "words", (each) => [held.get(each.id)?.forecast]],
    ],
    "There is no slot.",
  );
}

function show(status) {
  const fine = status.role === "primary" && !status.poisoned;
  at("role").className = "badge " + (fine ? "good" : "bad");
  at("role").textContent = status.role;
  at("term").textContent = "term " + number(status.term);
  document.title = "walspool: " + status.role;
  let alarm = null;
  if (status.poisoned) alarm = "Nothing is appended until the log is opened again: " + status.poisoned;
  else if (known(status.fenced_by)) {
    alarm = "A primary of term " + number(status.fenced_by) + " has replaced this one: it appends nothing any more.";
  }
  at("alarm").hidden = alarm === null;
  at("alarm").textContent = alarm ?? "";
  figures(at("log"), [
    ["last LSN", number(status.current_lsn)],
    ["durable LSN", number(status.durable_lsn)],
    ["oldest LSN", known(status.oldest_lsn) ? number(status.oldest_lsn) : "none: the log is empty"],
    ["pruned through", number(status.pruned_through)],
    ["retained", bytes(status.size_bytes)],
    ["retention floor", known(status.retention.floor_lsn) ? number(status.retention.floor_lsn) : "none: no valid slot"],
  ]);
  showReplicas(status);
  showSlots(status);
  const last = status.recovery;
  figures(at("recovery"), [
    ["verdict", last.verdict, last.verdict === "clean" ? "good" : last.verdict === "corrupt" ? "bad" : "warn"],
    ["records", number(last.records)],
    ["bytes", bytes(last.bytes)],
    ["cut", bytes(last.cut_bytes)],
    ["read", bytes(last.scanned_bytes)],
    ["took", seconds(last.duration_ms / 1000)],
    ...(last.quarantine ? [["what was cut is saved in", last.quarantine, "", true]] : []),
    ...(last.reason ? [["found", last.reason, "", true]] : []),
  ]);
  at("all").hidden = false;
}

// LSNs have 64 bits: what a number of JavaScript can't hold stays exact where the browser tells its digits
const exact = (key, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && /^\d+$/.test(context?.source ?? "")
    ? BigInt(context.source)
    : value;

function ask(words) {
  at("door").hidden = false;
  at("all").hidden = true;
  at("wrong").textContent = words;
  news("a token is needed", true);
}

function news(words, bad) {
  at("news").textContent = words;
  at("news").className = bad ? "bad" : "";
}

async function look() {
  const headers = token === null ? {} : { authorization: "Bearer " + token };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const answer = await fetch("v1/status", { headers, signal, cache: "no-store", credentials: "omit" });
  if (answer.status === 401 || answer.status === 403) {
    const problem = await answer.json();
    ask(token === null ? "" : problem.detail);
    return false;
  }
  if (!answer.ok) throw new Error("it answered " + answer.status);
  show(JSON.parse(await answer.text(), exact));
  answeredAt = new Date();
  at("door").hidden = true;
  document.body.classList.remove("stale");
  news("live, " + answeredAt.toLocaleTimeString(), false);
  return true;
}

async function follow() {
  let goOn = true;
  try {
    goOn = await look();
  } catch (error) {
    document.body.classList.add("stale");
    const since = answeredAt === null ? "" : "; what is shown is of " + answeredAt.toLocaleTimeString();
    news("no answer (" + error.message + ")" + since, true);
  }
  if (goOn) setTimeout(follow, EVERY_MS);
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  at("door").hidden = true;
  follow();
});
follow();
