// Theme, copying, keys, and the first drawing.
const system = matchMedia("(prefers-color-scheme: dark)");
const redraw = () => {
  drawFront();
  drawProgress();
  drawDescent();
  drawImportance();
  if (chosen) showCoefficients(known(chosen));
};
const setTheme = (wanted) => {
  document.documentElement.dataset.theme = wanted || (system.matches ? "dark" : "light");
  redraw();
};
const copy = async (button) => {
  const pre = button.parentElement.querySelector("pre");
  let done = false;
  try {
    await navigator.clipboard.writeText(pre.textContent);
    done = true;
  } catch {
    getSelection().selectAllChildren(pre);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "copied" : "selected";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.classList.contains("all")) {
    button.previousElementSibling.querySelector("table").classList.remove("short");
    button.previousElementSibling.focus();
    button.remove();
  }
  if (button.classList.contains("copy")) copy(button);
  if (button.classList.contains("show")) {
    choose(button.dataset.label);
    byId("chosen").scrollIntoView();
    byId("point").focus({ preventScroll: true });
  }
});
// Without a mouse: a name in a table that has the focus shows its intervals in the plot.
document.addEventListener("focusin", (event) => {
  if (event.target.matches("button.show")) peek(event.target.dataset.label);
});
document.addEventListener("focusout", (event) => {
  if (event.target.matches("button.show")) peek(chosen);
});
const hears = (id, action) => byId(id) && byId(id).addEventListener("change", action);
for (const id of ["split", "view", "across", "up"]) hears(id, drawFront);
for (const id of ["split", "knob-tasks"]) hears(id, () => { if (byId("knob")) { drawTicks(); turn(); } });
if (byId("knob")) byId("knob").addEventListener("input", () => peek(turn()));
hears("knob", () => choose(turn()));
hears("cost-axis", drawProgress);
hears("target", drawImportance);
hears("point", () => choose(byId("point").value));
hears("theme", () => setTheme(byId("theme").value));
system.addEventListener("change", () => setTheme(byId("theme").value));
addEventListener("beforeprint", () => setTheme("light"));
addEventListener("afterprint", () => setTheme(byId("theme").value));

document.documentElement.dataset.theme = system.matches ? "dark" : "light";
const asked = new URLSearchParams(location.hash.slice(1)).get("point");
if (data.points.length) {
  fillPoints();
  if (byId("knob")) drawTicks();
  choose([asked, winner, data.headline.best, data.points[0].label].find(isKnown));
}
drawDescent();
drawImportance();
for (const table of document.querySelectorAll("section .scroll > table")) shorten(table);
document.documentElement.dataset.ready = "yes";
