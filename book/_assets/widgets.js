/* Between requirejs and the widget manager: says where the scripts lie, so that none is fetched. */
(() => {
  const root = new URL(".", document.currentScript.src).href;
  requirejs.config({
    paths: {
      anywidget: root + "anywidget/index",
      "@jupyter-widgets/html-manager/dist": root + "html-manager",
      // Defined by the manager's script; their fonts are looked for beside where they seem to lie.
      "@jupyter-widgets/html-manager": root + "html-manager/manager",
      "@jupyter-widgets/base": root + "html-manager/base",
      "@jupyter-widgets/controls": root + "html-manager/controls",
    },
  });
  // The widget manager speaks MathJax 2; the pages carry MathJax 3.
  window.addEventListener("load", () => {
    if (window.MathJax && !window.MathJax.Hub) {
      window.MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.([element]) };
    }
  });
})();
