// What HTML alone cannot do: say that the service is gone, copy a line, show local times.
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
})();
