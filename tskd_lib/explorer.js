// Draws an experiment explorer from its data, and again after every change of a control.
(root, data) => {
  const find = (name) => root.querySelector(`[data-part=${name}]`);
  const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
  const run = (method, images, temperature) =>
    data.runs[`${method}|${images}|${data.methods[method].soft ? temperature : ""}`];

  function element(parent, name, attributes = {}, text = "") {
    const space = parent.namespaceURI;
    const child = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) child.setAttribute(key, value);
    child.textContent = text;
    parent.append(child);
    return child;
  }

  // An empty chart of 340 x 230 with axes; gives functions from values to places.
  function chart(svg, title, text, x, y) {
    svg.replaceChildren();
    svg.setAttribute("aria-label", `${title}. ${text}`);
    const place = (axis, low, high) => (value) =>
      low + ((value - axis.range[0]) / (axis.range[1] - axis.range[0])) * (high - low);
    const across = place(x, 48, 326), up = place(y, 180, 34);
    element(svg, "text", { x: 4, y: 18, "font-weight": "bold" }, title);
    for (const tick of y.ticks) {
      element(svg, "line", { x1: 48, x2: 326, y1: up(tick), y2: up(tick), stroke: "#ddd" });
      element(svg, "text", { x: 42, y: up(tick) + 4, "text-anchor": "end" }, Math.round(100 * tick));
    }
    for (const tick of x.ticks)
      element(svg, "text", { x: across(tick), y: 198, "text-anchor": "middle" }, x.show(tick));
    element(svg, "text", { x: 187, y: 220, "text-anchor": "middle" }, x.label);
    return { across, up };
  }

  // An axis of accuracies, at least 5 points long, that holds all of these.
  function shares(values) {
    const high = Math.min(1, Math.max(...values)), low = Math.min(...values, high - 0.05);
    const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((s) => (high - low) / s < 6);
    const ticks = [];
    for (let k = Math.floor(low / step + 1e-9); (k - 1) * step < high - 1e-9; k++) ticks.push(k * step);
    return { range: [ticks[0], ticks.at(-1)], ticks };
  }

  function line(svg, points, style, width) {
    const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    element(svg, "polyline", { points: path, fill: "none", stroke: style.colour,
      "stroke-width": width, "stroke-dasharray": style.dash });
  }

  function answers(now, chosen, answer) {
    const names = Object.keys(now.accuracy), style = data.methods[chosen.method], svg = find("answers");
    const text = names.map((name) => `${data.answers[name]} ${percent(now.accuracy[name][0])}`);
    // the axis of every method with these images, so that they can be compared
    const all = Object.keys(data.methods).flatMap((method) =>
      Object.values(run(method, chosen.images, chosen.temperature).accuracy).flat());
    const { across, up } = chart(svg, "Accuracy of every answer (%)", text.join(", "),
      { range: [-0.5, names.length - 0.5], ticks: names.map((_, k) => k),
        show: (k) => data.answers[names[k]], label: `95 % intervals, ${now.seeds} seeds` }, shares(all));
    names.forEach((name, k) => {
      const [mean, low, high] = now.accuracy[name], x = across(k), shown = name === answer;
      const [top, bottom] = [Math.min(1, high), low].map(up);
      element(svg, "path", { d: `M${x - 5} ${top}h10M${x - 5} ${bottom}h10M${x} ${bottom}V${top}`,
        stroke: style.colour, "stroke-width": shown ? 3 : 1.5 });
      element(svg, "circle", { cx: x, cy: up(mean), r: shown ? 5 : 3, fill: style.colour });
    });
  }

  function images(chosen, answer) {
    const svg = find("images"), at = data.images.indexOf(chosen.images);
    const rows = Object.entries(data.methods).map(([method, style]) => {
      const found = data.images.map((n) => run(method, n, chosen.temperature).accuracy);
      const own = answer in found[0] ? answer : "deepest";
      return { style, bold: method === chosen.method, means: found.map((accuracy) => accuracy[own][0]) };
    });
    const text = rows.map((row) => `${row.style.label} ${percent(row.means[at])}`);
    const { across, up } = chart(svg, "Accuracy against images a class (%)",
      `With ${chosen.images} images: ${text.join(", ")}`,
      { range: [-0.1, data.images.length - 0.9], ticks: data.images.map((_, k) => k),
        show: (k) => data.images[k], label: "" }, shares(rows.flatMap((row) => row.means)));
    rows.forEach(({ style, bold, means }, k) => {
      line(svg, means.map((mean, k) => [across(k), up(mean)]), style, bold ? 4 : 1.5);
      if (bold) element(svg, "circle", { cx: across(at), cy: up(means[at]), r: 6, fill: style.colour });
      const [x, y] = [40 + 104 * (k % 3), 211 + 14 * Math.floor(k / 3)];
      line(svg, [[x, y], [x + 20, y]], style, bold ? 4 : 1.5);
      element(svg, "text", { x: x + 24, y: y + 4, "font-size": 11 }, style.label);
    });
  }

  function front(now, chosen) {
    const svg = find("front"), style = data.methods[chosen.method], early = now.early;
    svg.toggleAttribute("hidden", !early);
    if (!early) return;
    const points = early.cost.map((cost, k) => [cost, early.accuracy[k]]), [cost, accuracy] = points[chosen.at];
    const { across, up } = chart(svg, "Accuracy with early exit (%)",
      `${percent(accuracy)} for ${percent(cost)} of the full cost`,
      { range: [0.2, 1.02], ticks: [0.25, 0.5, 0.75, 1], show: (x) => 100 * x,
        label: "Mean cost (% of all exits)" }, shares(early.accuracy));
    line(svg, points.map(([x, y]) => [across(x), up(y)]), style, 2);
    element(svg, "circle", { cx: across(cost), cy: up(accuracy), r: 6, fill: style.colour });
  }

  function samples(now, answer, threshold) {
    find("samples").querySelectorAll("figure").forEach((figure, i) => {
      const [label, sure] = now.samples[answer][i], truth = data.truth[i];
      const exits = Object.keys(now.accuracy).filter((name) => !name.startsWith("vote"));
      const leaves = exits.findIndex((name) => now.samples[name][i][1] >= threshold);
      const exit = leaves < 0 ? exits.length : leaves + 1;
      const verdict = label === truth ? "✓" : `✗ (${data.classes[truth]})`;
      figure.querySelector("figcaption").textContent =
        `${data.classes[label]} ${verdict}, ${Math.round(100 * sure)}\u00a0%` +
        (exits.length > 1 ? `, exit\u00a0${exit}` : "");
    });
  }

  function draw() {
    const chosen = {
      method: find("method").value,
      images: data.images[find("shots").value],
      temperature: data.temperatures[find("temperature").value],
      at: Number(find("threshold").value),
    };
    const style = data.methods[chosen.method], now = run(chosen.method, chosen.images, chosen.temperature);
    const menu = find("answer");
    for (const option of menu.options) option.disabled = !(option.value in now.accuracy);
    if (menu.selectedOptions[0].disabled) menu.value = "deepest";
    const answer = menu.value, [mean, low, high] = now.accuracy[answer];
    find("temperature").disabled = !style.soft;
    find("threshold").disabled = !now.early;
    const threshold = data.thresholds[chosen.at];
    const values = { shots: chosen.images, threshold: threshold > 1 ? "never" : threshold,
      temperature: style.soft ? chosen.temperature : "none (no soft targets)" };
    for (const [name, value] of Object.entries(values)) {
      find(name).setAttribute("aria-valuetext", value);
      root.querySelector(`output[for="${find(name).id}"]`).textContent = value;
    }
    find("said").textContent =
      `${style.label}, ${data.answers[answer]}: ${percent(mean)} of the test images right` +
      ` (mean of ${now.seeds} seeds, 95 % interval ${percent(low)} to ${percent(high)}).`;
    answers(now, chosen, answer);
    images(chosen, answer);
    front(now, chosen);
    samples(now, answer, threshold);
  }

  root.addEventListener("input", draw);
  draw();
  root.hidden = false;
}
