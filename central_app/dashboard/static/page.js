// The page's whole behaviour: log in, log out, and replace one fragment when the site says that something changed.
// The fragment is parsed by XMLHttpRequest into a document of its own, where no script runs; nothing here takes text as HTML.
"use strict";

const LONGEST_WAIT_MS = 1000;

function csrfToken() {
  return sessionStorage.getItem("csrf") || "";
}

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
      sessionStorage.setItem("csrf", document_.csrf_token);
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

async function logOut() {
  try {
    await fetch("/api/session", { method: "DELETE", headers: { "X-CSRF-Token": csrfToken() } });
  } finally {
    sessionStorage.removeItem("csrf");
    location.assign("/login");
  }
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
      if (again) {
        again = false;
        soon();
      }
    };
    request.send();
  };

  const soon = () => {
    if (timer === null) timer = setTimeout(refresh, Math.min(150, LONGEST_WAIT_MS));
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
