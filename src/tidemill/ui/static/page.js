// What HTML alone cannot do: follow the event stream, say that the service is gone, copy a line, show local times.
(() => {
  "use strict";
  const root = document.documentElement;
  const lost = () => root.classList.add("lost");
  document.addEventListener("htmx:error", lost);
  document.addEventListener("htmx:response:error", (event) => {
    const status = event.detail.ctx.response.status;
    if (status === 401 || status === 403 || status === 404) location.reload();
    else lost();
  });
  let atEnd = true;
  document.addEventListener("htmx:before:swap", () => {
    const log = document.getElementById("log");
    atEnd = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  });
  document.addEventListener("htmx:after:swap", () => {
    root.classList.remove("lost");
    dress();
  });

  // A live piece asks again when the stream says so: at most once a second, and now and then for what no event
  // tells. Without a stream it asks every few seconds. A page that nobody sees does neither: browsers keep few
  // connections to one service.
  const CALM_MS = 1000, SLOW_MS = 15000;
  function follow(live) {
    let stream, asked = 0, planned = 0;
    const ask = () => {
      planned = 0;
      asked = Date.now();
      live.dispatchEvent(new Event("news"));
    };
    const soon = () => { planned ||= setTimeout(ask, Math.max(0, asked + CALM_MS - Date.now())); };
    const listen = () => {
      stream = new EventSource(live.dataset.events);
      for (const name of ["state", "progress", "changed"]) stream.addEventListener(name, soon);
    };
    document.addEventListener("visibilitychange", () => {
      stream.close();
      if (document.hidden) return;
      listen();
      soon();
    });
    setInterval(() => {
      const pace = stream.readyState === EventSource.OPEN ? SLOW_MS : 1000 * live.dataset.pace;
      if (!document.hidden && Date.now() - asked >= pace) ask();
    }, 1000);
    listen();
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  function dress() {
    if (navigator.clipboard) for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
    for (const time of document.querySelectorAll("time")) {
      time.title = new Date(time.dateTime).toLocaleString() + " (local)";
    }
    const log = document.getElementById("log");
    if (log && atEnd) log.scrollTop = log.scrollHeight;
    const percent = document.querySelector("[data-percent]");
    if (percent) document.title = document.title.replace(/^\d+ %/, percent.dataset.percent + " %");
  }
  dress();
  const live = document.querySelector("[data-events]");
  if (live) follow(live);
})();
