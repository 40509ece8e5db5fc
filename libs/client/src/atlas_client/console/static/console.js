"use strict";
// Asks for the overview again and again, and shows it. Everything that comes from the platform is set as text, never as markup.

const EVERY_MS = 5000;
const STALE_MS = 15000;
const TOKEN = "atlas-token"; // Of this tab alone: gone when it is closed.
const byId = (id) => document.getElementById(id);
let timer = 0;
let shownAt = 0;

function element(name, text, ...classes) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  made.classList.add(...classes.filter(Boolean));
  return made;
}

function span(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= size) return `${+(seconds / size).toFixed(1)} ${unit}`;
  return `${seconds < 10 ? +seconds.toFixed(2) : Math.round(seconds)} s`;
}

const coarse = (seconds) => span(seconds < 60 ? Math.round(seconds) : seconds);
const count = (number) => number.toLocaleString("en");
const age = (time, now) => Math.max(0, (now - new Date(time)) / 1000);
const clock = (time) => (time ? new Date(time).toISOString().slice(0, 19).replace("T", " ") : "never");
const mark = (text, kind) => element("span", text, "mark", kind);

function table(id, heads, rows, absent) {
  const head = element("tr");
  head.append(...heads.map((text) => element("th", text)));
  const body = rows.map((cells) => {
    const row = element("tr");
    for (const cell of cells) {
      const made = element("td", null, cell?.as);
      made.append(cell?.node ?? cell?.text ?? cell ?? "–");
      row.append(made);
    }
    return row;
  });
  if (!body.length) {
    const row = element("tr");
    const cell = element("td", absent, "dim");
    cell.colSpan = heads.length;
    row.append(cell);
    body.push(row);
  }
  byId(id).replaceChildren(head, ...body);
}

function figure(name, value, note, kind) {
  const made = element("dl", null, "figure", kind);
  const shown = element("dd", value);
  shown.append(element("small", note));
  made.append(element("dt", name), shown);
  return made;
}

function lag(view) {
  const { lag: seconds } = view.tier;
  const kind = !view.tier.available || view.over_budget ? "critical" : "";
  const box = element("div", seconds === null ? "unknown" : span(seconds));
  if (view.budget > 0 && seconds !== null) {
    const bar = element("progress", null, "bar", kind);
    bar.max = view.budget;
    bar.value = Math.min(seconds, view.budget);
    box.append(bar);
  }
  return { node: box };
}

function standing(view) {
  if (!view.tier.available) return mark("not read", "critical");
  if (view.over_budget) return mark("over budget", "critical");
  return mark("within budget", "well");
}

const BREAKERS = { CLOSED: "well", HALF_OPEN: "warning", OPEN: "critical" };
const STATUSES = { success: "well", failed: "critical", unfinished: "warning" };

function showBanners(found) {
  const told = found.banners.map((banner) => element("li", banner.text, banner.severity));
  byId("banners").replaceChildren(
    ...(told.length ? told : [element("li", "Every tier is within its budget, and nothing waits.", "well")]));
}

function showFigures(found) {
  const { staging, pipeline, cache } = found;
  const shown = [];
  if (staging) {
    const backlog = staging.lanes.reduce((sum, lane) => sum + lane.staged_points, 0);
    shown.push(
      figure("Staging backlog", count(backlog), `points, in ${staging.lanes.length} ${staging.lanes.length === 1 ? "lane" : "lanes"}`, backlog > 1e6 && "critical"),
      figure("Not durable yet", count(staging.pending_points), `of ${count(staging.pending_points_max)} points at most`));
  }
  if (pipeline) {
    const held = pipeline.held_tables.length;
    shown.push(
      figure("Pipeline", pipeline.phase, `${count(pipeline.applied_total)} changes applied`,
        ["streaming", "backfilling"].includes(pipeline.phase) ? "" : "critical"),
      figure("Dead letters", count(pipeline.dead_letters_open), held ? `${held} tables held` : "open",
        pipeline.dead_letters_open && "warning"),
      figure("Books", pipeline.conserved ? "balance" : "do not balance", "read = applied + dead + skipped",
        pipeline.conserved ? "" : "critical"));
  }
  if (cache) {
    const reads = cache.hits_total + cache.misses_total;
    shown.push(figure("Cache", reads ? `${Math.round((100 * cache.hits_total) / reads)} %` : "–",
      cache.connected ? `hits of ${count(reads)} reads` : "away", cache.connected ? "" : "warning"));
  }
  byId("figures").replaceChildren(...shown);
}

function showTiers(found) {
  table("tiers", ["Tier", "Endpoint", "Lag", "Budget", "", "Breaker"], (found.tiers ?? []).map((view) => [
    view.tier.source, view.tier.endpoint, lag(view), { text: view.budget ? span(view.budget) : "none", as: "dim" },
    { node: standing(view) }, { node: mark(view.tier.breaker || "none", BREAKERS[view.tier.breaker]) },
  ]), found.problems.tiers ?? "There is no tier.");
}

function showProofs(found, now) {
  const proofs = found.verifications;
  const budget = proofs?.freshness_budget;
  byId("proof-budget").textContent = proofs
    ? `of ${count(proofs.tenant_count)} tenants, those furthest behind first; budget ${span(budget)}` : "";
  table("proofs", ["Tenant", "Verified through (UTC)", "Age", "Windows that differ", "Newest report"],
    (proofs?.tenants ?? []).map((one) => {
      const seconds = one.verified_through ? age(one.verified_through, now) : Infinity;
      const isLate = seconds > budget;
      return [
        one.tenant, { text: clock(one.verified_through), as: one.verified_through ? "" : "dim" },
        { node: mark(Number.isFinite(seconds) ? span(seconds) : "never", isLate ? "warning" : "well") },
        { node: one.windows_mismatched ? mark(count(one.windows_mismatched), "critical") : element("span", "0") },
        one.report_id ? `${one.report_id}: ${count(one.report_differences)} rows, ${span(age(one.report_time, now))} ago` : null,
      ];
    }), found.problems.verification ?? "There is no tenant.");
}

function showPolicies(found, now) {
  table("policies", ["Id", "Policy", "For", "Every", "Next run", "Last run", "Status", "Result"],
    (found.policies ?? []).map((policy) => {
      const last = policy.last_run;
      const next = policy.next_start_time && (new Date(policy.next_start_time) - now) / 1000;
      return [
        String(policy.policy_id), policy.job, policy.tenants.join(", ") || { text: "all", as: "dim" },
        !policy.scheduled ? "off" : policy.schedule_interval ? span(policy.schedule_interval) : "never",
        policy.requested || (next !== null && next <= 0) ? "now" : next === null ? null : `in ${coarse(next)}`,
        last === null ? "never" : last.end_time ? `${coarse(age(last.end_time, now))} ago` : "now",
        { node: last === null ? element("span", "–") : mark(last.status, STATUSES[last.status]) },
        { text: last?.summary || "–", as: "text" },
      ];
    }), found.problems.policies ?? "There is no policy.");
}

function show(found) {
  const now = new Date(found.taken_at);
  shownAt = Date.now();
  byId("sign-in").hidden = true;
  byId("board").hidden = false;
  byId("leave").hidden = !sessionStorage.getItem(TOKEN);
  showBanners(found);
  showFigures(found);
  showTiers(found);
  showProofs(found, now);
  showPolicies(found, now);
  const worst = found.banners[0]?.severity ?? "well";
  state(`as of ${clock(found.taken_at)} UTC`, worst);
}

function state(text, kind) {
  byId("state").textContent = text;
  byId("state").className = kind ?? "";
}

function signIn(refusal) {
  const had = sessionStorage.getItem(TOKEN);
  sessionStorage.removeItem(TOKEN);
  byId("board").hidden = true;
  byId("leave").hidden = true;
  byId("sign-in").hidden = false;
  byId("refusal").textContent = had ? refusal : "";
  byId("token").focus();
  state("signed out");
}

async function look() {
  clearTimeout(timer);
  const token = sessionStorage.getItem(TOKEN);
  try {
    const answer = await fetch("/api/overview", {
      headers: token ? { Authorization: `Bearer ${token}` } : {}, credentials: "omit", redirect: "error",
    });
    const found = await answer.json();
    if (answer.status === 401) {
      signIn(found.error);
      return;
    }
    if (!answer.ok) throw new Error(found.error);
    show(found);
  } catch (error) {
    const isStale = shownAt && Date.now() - shownAt > STALE_MS;
    state(`${error.message}${isStale ? ": what is shown is old" : ""}`, "critical");
  }
  timer = setTimeout(look, EVERY_MS);
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  look();
});
byId("leave").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  shownAt = 0;
  clearTimeout(timer);
  signIn("");
});
look();
