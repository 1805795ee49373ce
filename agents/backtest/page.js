"use strict";
(() => {
  const lists = JSON.parse(document.getElementById("mondays").textContent);
  const choice = document.getElementById("monday-of");
  if (!choice) return;
  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const cell = (row, text) => { row.insertCell().textContent = text; };
  choice.addEventListener("change", () => {
    const monday = lists[Number(choice.value)];
    const body = document.querySelector("#monday-list tbody");
    body.replaceChildren();
    for (const each of monday.entries) {
      const row = body.insertRow();
      cell(row, each.customer);
      const risk = row.insertCell();
      const band = document.createElement("span");
      band.className = `band ${each.band}`;
      band.textContent = each.band;
      risk.append(band, ` ${Math.round(each.probability * 100)}%`);
      for (const text of [whole.format(each.silent), each.why, each.action, whole.format(each.revenue), each.then]) cell(row, text);
    }
    const more = monday.total > monday.entries.length ? `, the ${monday.entries.length} with most revenue shown` : "";
    document.getElementById("monday-sum").textContent =
      `${whole.format(monday.total)} customers, ${whole.format(monday.revenue)} at risk${more}`;
  });
})();
