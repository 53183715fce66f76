// The page's whole behaviour: log in, log out, and replace one fragment when the site says that something changed.
// The fragment is parsed by XMLHttpRequest into a document of its own, where no script runs; nothing here takes text as HTML.
"use strict";

const SHORTEST_WAIT_MS = 150;
const LONGEST_WAIT_MS = 10000;

async function logIn(event) {
  event.preventDefault();
  const form = event.target;
  const shown = document.getElementById("login-error");
  shown.hidden = true;
  let problem;
  try {
    const answer = await fetch("/api/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code: form.elements.code.value.trim() }),
    });
    const document_ = await answer.json();
    if (answer.ok) {
      location.assign("/");
      return;
    }
    problem = [document_.detail || document_.title, document_.remedy].filter(Boolean).join(" ");
  } catch {
    problem = "Central did not answer. Try again.";
  }
  shown.textContent = problem;
  shown.hidden = false;
  form.elements.code.focus();
}

async function logOut(event) {
  const button = event.currentTarget;
  let ended = false;
  try {
    const answer = await fetch("/api/session", { method: "DELETE", headers: { "X-CSRF-Token": button.dataset.logout } });
    ended = answer.ok || answer.status === 401;
  } catch {
    // No answer: said below.
  }
  // Who reads "logged out" walks away from the screen: it is said only when it is so.
  if (ended) location.assign("/login");
  else button.textContent = "Still logged in, try again";
}

function openDetails(root) {
  return new Set([...root.querySelectorAll("tr")].filter((row) => row.querySelector("details[open]")).map(rowName));
}

function rowName(row) {
  return row.querySelector(".name")?.textContent;
}

function follow(site) {
  const live = document.getElementById("live");
  const word = document.getElementById("live-word");
  let timer = null;
  let loading = false;
  let again = false;
  let took = 0;

  const show = (state, text) => {
    live.dataset.state = state;
    word.textContent = text;
  };

  const replace = (fresh) => {
    const old = document.getElementById("fragment");
    fresh.querySelectorAll("script").forEach((element) => element.remove());
    const open = openDetails(old);
    const node = document.importNode(fresh, true);
    for (const row of node.querySelectorAll("tr")) {
      const details = row.querySelector("details");
      if (details && open.has(rowName(row))) details.open = true;
    }
    const positions = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    old.replaceWith(node);
    node.querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = positions[index] || 0; });
  };

  const refresh = () => {
    timer = null;
    if (loading) {
      again = true;
      return;
    }
    loading = true;
    const begun = performance.now();
    const request = new XMLHttpRequest();
    request.open("GET", site.dataset.fragment + location.search);
    request.responseType = "document";
    request.timeout = 15000;
    request.onload = () => {
      const fresh = request.status === 200 && request.response && request.response.getElementById("fragment");
      if (fresh) replace(fresh);
      else if (request.status === 401) location.assign("/login");
      else show("off", "Central answered " + request.status);
    };
    request.onerror = request.ontimeout = () => show("off", "No answer, retrying");
    request.onloadend = () => {
      loading = false;
      took = performance.now() - begun;
      if (again) {
        again = false;
        soon();
      }
    };
    request.send();
  };

  const soon = () => {
    // A large site is much work for Central: who watches it asks for no more than a third of the time.
    const wait = Math.min(Math.max(SHORTEST_WAIT_MS, 2 * took), LONGEST_WAIT_MS);
    if (timer === null) timer = setTimeout(refresh, wait);
  };

  const source = new EventSource(site.dataset.events + "?after=" + encodeURIComponent(site.dataset.sequence));
  source.onopen = () => show("on", "Live");
  source.onerror = () => show("off", source.readyState === EventSource.CLOSED ? "Not live, reload" : "Reconnecting");
  source.onmessage = soon;
  // "Last seen" ages without any event.
  setInterval(() => { if (!document.hidden) soon(); }, 30000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
}

document.getElementById("login")?.addEventListener("submit", logIn);
document.querySelectorAll("[data-logout]").forEach((button) => button.addEventListener("click", logOut));
const site = document.getElementById("site");
if (site) follow(site);
