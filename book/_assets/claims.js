// The list of claims: filters by section and verdict, and rows that open when they are linked to.
(() => {
  const list = document.querySelector(".claims");
  if (!list) return;
  const rows = [...list.querySelectorAll("details.claim")];

  const select = (name, words) => {
    const label = document.createElement("label");
    const box = document.createElement("select");
    const counts = new Map();
    for (const row of rows) {
      counts.set(row.dataset[name], (counts.get(row.dataset[name]) ?? 0) + 1);
    }
    box.add(new Option("all", ""));
    for (const [value, count] of counts) box.add(new Option(`${value} (${count})`, value));
    label.append(`${words} `, box);
    return [label, box];
  };
  const [sectionLabel, section] = select("section", "In the paper");
  const [verdictLabel, verdict] = select("verdict", "Verdict");
  const shown = document.createElement("span");
  shown.setAttribute("role", "status");

  const apply = () => {
    let count = 0;
    for (const row of rows) {
      row.hidden =
        (section.value !== "" && row.dataset.section !== section.value) ||
        (verdict.value !== "" && row.dataset.verdict !== verdict.value);
      count += row.hidden ? 0 : 1;
    }
    for (const group of list.querySelectorAll("section")) {
      group.hidden = !group.querySelector("details.claim:not([hidden])");
    }
    shown.textContent = `${count} of ${rows.length} claims`;
  };
  section.addEventListener("change", apply);
  verdict.addEventListener("change", apply);

  const filters = document.createElement("div");
  filters.className = "claims-filters";
  filters.append(sectionLabel, verdictLabel, shown);
  list.prepend(filters);
  apply();

  // A link to a row shows it, whatever is filtered.
  const openTarget = () => {
    const row = rows.find((one) => `#${one.id}` === location.hash);
    if (!row) return;
    if (row.hidden) {
      section.value = verdict.value = "";
      apply();
    }
    row.open = true;
    row.scrollIntoView();
  };
  window.addEventListener("hashchange", openTarget);
  openTarget();
})();
