"use strict";
// The slider "days of future let in". Without scripts the table in its place says the same.
const box = document.querySelector(".explore");
if (box) {
  document.documentElement.classList.add("scripted");
  const steps = JSON.parse(box.dataset.steps);
  const most = Math.max(...steps.flatMap((step) => [step.promised, step.kept]));
  const find = (selector) => box.querySelector(selector);
  const slider = find("input");
  const show = () => {
    const step = steps[Number(slider.value)];
    slider.setAttribute("aria-valuetext", step.name);
    find("output").value = step.name;
    for (const key of ["promised", "kept"]) {
      find(`[data-bar=${key}]`).style.width = `${(100 * step[key]) / most}%`;
      find(`[data-value=${key}]`).textContent = step[key].toLocaleString("en");
    }
    find("[data-said]").textContent = step.said;
    if (find("[data-counted]")) {
      find("[data-seen]").setAttribute("width", step.x);
      find("[data-counted]").textContent = step.counted;
    }
  };
  slider.addEventListener("input", show);
  show();
}
{% include "reach.js" %}
