// What is wrong with how an element looks: text that can't be read, and what reaches out of it sideways. Gives sentences.
(root) => {
  const found = new Set();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const seen = new Map();
  // Any CSS colour as red, green, blue of 0 to 255 and alpha of 0 to 1
  const colour = (css) => {
    if (!seen.has(css)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = css;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      seen.set(css, [r, g, b, a / 255]);
    }
    return seen.get(css);
  };
  const over = (above, below) => above.slice(0, 3).map((c, i) => c * above[3] + below[i] * (1 - above[3])).concat(1);
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const words = (text) => JSON.stringify(text.trim().slice(0, 40));
  const box = root.getBoundingClientRect();

  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("style, script") || !parent.checkVisibility()) continue;
    let background = [255, 255, 255, 1], opacity = 1;
    const above = [];
    for (let e = parent; e; e = e.parentElement) above.push(e);
    for (const e of above.reverse()) background = over(colour(getComputedStyle(e).backgroundColor), background);
    for (const e of above) opacity *= parseFloat(getComputedStyle(e).opacity);
    const ink = [...colour(getComputedStyle(parent).color)];
    ink[3] *= opacity;
    const ratio = contrast(over(ink, background), background);
    if (ratio < 4.5) found.add(`${words(node.data)} has a contrast of ${ratio.toFixed(1)}`);
    const range = document.createRange();
    range.selectNodeContents(node);
    // On purpose: digests are cut, of which copied text has all digits, and tables of data scroll
    if (parent.closest(".ocikit-cut, .ocikit-data")) continue;
    for (const r of range.getClientRects()) {
      if (r.width > 1 && (r.right > box.right + 1 || r.left < box.left - 1)) found.add(`${words(node.data)} reaches out sideways`);
    }
  }
  for (const e of [root, ...root.querySelectorAll("*")]) {
    if (e.closest(".ocikit-cut, .ocikit-data")) continue;
    if (e.checkVisibility() && e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible") {
      found.add(`<${e.tagName.toLowerCase()} class="${e.className}"> scrolls sideways: ${e.scrollWidth} in ${e.clientWidth} pixels`);
    }
  }
  return [...found];
}
