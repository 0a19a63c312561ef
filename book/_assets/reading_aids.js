// What the pages lack: columns of words begin at the left. For readers with a keyboard or a screen
// reader, boxes that scroll take the focus, and the handles of sliders carry the name of their label.
(() => {
  const BOXES = ".bd-article pre, .bd-article div:has(> table)";

  function reach() {
    for (const box of document.querySelectorAll(BOXES)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", box.matches("pre") ? "Code" : "Table");
      } else if (!scrolls && box.getAttribute("role") === "group" && box.tabIndex === 0) {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  }

  function name() {
    for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
      const label = handle.closest(".widget-inline-hbox")?.querySelector(".widget-label");
      handle.setAttribute("aria-label", label?.textContent || "Value");
    }
  }

  function align() {
    for (const table of document.querySelectorAll(".cell_output table")) {
      const rows = [...table.rows].filter((row) => row.closest("tbody"));
      const columns = [...(rows[0]?.cells ?? [])].map((_, n) => rows.map((row) => row.cells[n]));
      const isText = (cell) => /^\p{L}/u.test(cell?.textContent.trim() || "a");
      columns.forEach((cells, n) => {
        if (!cells.every(isText)) return;
        for (const row of table.rows) row.cells[n]?.style.setProperty("text-align", "left");
      });
    }
  }

  align();
  reach();
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  if (document.querySelector('script[type^="application/vnd.jupyter.widget"]')) {
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  }
})();
