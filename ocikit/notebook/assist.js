// What the controls of ipywidgets cannot do: arrow keys within lists, live regions, and copies to the clipboard.

/** Mark the controls of an explorer. JupyterLab takes the arrow keys of a list, unless the list has this attribute. */
function mark(root) {
  for (const list of root.querySelectorAll("select")) list.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const area of root.querySelectorAll(".ocikit-status")) {
    area.setAttribute("role", "status");
    area.setAttribute("aria-live", "polite");
  }
  const crumbs = root.querySelectorAll(".ocikit-crumbs button");
  crumbs.forEach((crumb) => (crumb.disabled ? crumb.setAttribute("aria-current", "page") : crumb.removeAttribute("aria-current")));
  root.querySelector(".ocikit-crumbs")?.setAttribute("role", "navigation");
  root.querySelector(".ocikit-crumbs")?.setAttribute("aria-label", "opened address");
}

async function copy(button, field) {
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    field.select(); // pages without https have no clipboard
    document.execCommand("copy");
    button.focus();
  }
  const text = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = text), 1500);
}

function assist(root) {
  const onClick = (event) => {
    const button = event.target.closest(".ocikit-copy-code");
    const field = root.querySelector(".ocikit-code input");
    if (button && field && button.textContent !== "Copied") copy(button, field);
  };
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", "ocikit explorer");
  root.classList.add("ocikit-assisted");
  mark(root);
  const observer = new MutationObserver(() => mark(root));
  observer.observe(root, { childList: true, subtree: true });
  root.addEventListener("click", onClick);
  return () => {
    observer.disconnect();
    root.removeEventListener("click", onClick);
  };
}

function render({ el }) {
  let stop = () => {};
  let tries = 0;
  let timer;
  const find = () => {
    const root = el.closest(".ocikit-explorer");
    if (root) stop = assist(root);
    else if (tries++ < 600) timer = setTimeout(find, 50); // the page shows a widget after it has rendered it
  };
  find();
  return () => {
    clearTimeout(timer);
    stop();
  };
}

export default { render };
