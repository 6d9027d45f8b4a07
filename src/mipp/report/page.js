"use strict";
// Draws the figures, and makes tables sortable. All numbers are in the page.
(() => {
  const read = (node) => JSON.parse(node.textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, fields = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), fields);
    node.append(...inside);
    return node;
  };
  const look = read(document.getElementById("look"));
  const root = document.documentElement;

  // ------------------------------------------------------------------------------------- theme
  const system = matchMedia("(prefers-color-scheme: dark)");
  let wish = "auto";
  const dark = () => (wish === "auto" ? system.matches : wish === "dark");
  const colour = (place, night = dark()) => look.palette[night ? "dark" : "light"][place];
  const paint = () => { root.dataset.theme = dark() ? "dark" : "light"; };
  paint();

  // ---------------------------------------------------------------------------- what is shown
  const firstSeen = new Set(look.families.filter((f) => f.first).map((f) => f.key));
  const shown = new Set(
    Object.keys(look.styles).filter((label) => firstSeen.has(look.styles[label].family)));
  const seen = (series) => series.style || !(series.label in look.styles) || shown.has(series.label);
  const styleOf = (series) => series.style || look.styles[series.label];

  // ----------------------------------------------------------------------------------- figures
  const figures = all("figure[id]").map((node) => ({
    node, ...read(node.querySelector(".data")), canvas: node.querySelector(".canvas"),
    legend: node.querySelector(".legend"), hidden: new Set(), drawn: false,
  }));
  const choiceOf = (figure) =>
    all("input[type=hidden], select, input:checked", figure.node.querySelector(".choices"))
      .map((input) => input.value);
  const viewOf = (figure) => {
    const choice = choiceOf(figure);
    return figure.views.find((view) => view.choice.every((o, i) => o === choice[i]))
      || figure.views[0];
  };

  const trace = (series, view, night) => {
    const style = styleOf(series), ink = colour(style.colour, night);
    const bars = { type: "data", symmetric: false, array: series.above, arrayminus: series.below,
      color: style.width > 3 ? ink : `${ink}88`, thickness: style.width > 3 ? 1.5 : 1, width: 3,
      visible: series.above.some((value) => value !== null) };
    // by what is left, as what is removed crowds at 100 %
    const x = view.x.kind === "removed" ? series.x.map((value) => 1 - value) : series.x;
    const common = { name: series.label, legendrank: Object.keys(look.styles).indexOf(series.label), x, y: series.y, text: series.hover,
      hovertemplate: "%{text}<extra></extra>" };
    if (view.drawing === "bars")
      return { ...common, x: series.y, y: series.x, type: "bar", orientation: "h",
        error_x: bars, marker: { color: ink }, textposition: "none" };
    const many = series.x.length > 16;
    return { ...common, type: "scatter", mode: many ? "lines" : "lines+markers", error_y: bars,
      line: { color: ink, width: style.width, dash: style.dash },
      marker: { color: ink, symbol: style.symbol, size: style.width > 3 ? 10 : 7 } };
  };

  const axis = (spec, ground, narrow) => {
    const made = { title: { text: spec.title, standoff: 8 }, automargin: true, zeroline: false,
      gridcolor: ground.line, linecolor: ground.line, tickcolor: ground.line };
    if (spec.kind === "percent") Object.assign(made, { tickformat: ".2~%", hoverformat: ".1%" });
    if (["left", "removed"].includes(spec.kind)) Object.assign(made, { type: "log", share: spec.kind });
    if (spec.kind === "log") Object.assign(made, { type: "log", dtick: 1, exponentformat: "SI" });
    if (spec.kind === "number") made.exponentformat = "SI";
    if (spec.kind === "names")
      Object.assign(made, { type: "category", categoryorder: "array",
        categoryarray: spec.names,
        tickmode: spec.names.length > (narrow ? 8 : 24) ? "auto" : "linear" });
    if (spec.zero) made.rangemode = "tozero";
    if (spec.reverse) made.autorange = "reversed";
    return made;
  };

  // Plotly writes ticks between decades without their decade
  const ticks = (made, values) => {
    const positive = values.filter((value) => value > 0);
    if (made.type !== "log" || !positive.length) { delete made.share; return; }
    const low = Math.floor(Math.log10(Math.min(...positive))) - 1;
    const high = Math.ceil(Math.log10(Math.max(...positive))) + 1;
    const steps = high - low > 7 ? [1] : high - low > 5 ? [1, 3] : [1, 2, 5];
    made.tickvals = [];
    for (let decade = low; decade <= high; decade += 1)
      made.tickvals.push(...steps.map((step) => step * 10 ** decade));
    made.ticktext = made.tickvals.map(made.share ? share(made.share) : short);
    delete made.dtick;
    delete made.share;
  };
  const share = (kind) => (left) =>
    (left > 1 ? "" : `${Number((100 * (kind === "removed" ? 1 - left : left)).toPrecision(5))}%`);
  const short = (value) => {
    for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (value >= size * 0.999) return `${Number((value / size).toPrecision(3))}${letter}`;
    return String(Number(value.toPrecision(3)));
  };

  const layout = (figure, view, ground) => {
    const narrow = figure.canvas.clientWidth < 520, bars = view.drawing === "bars";
    // bars lie on their side: names of layers are read from left to right
    const x = axis(bars ? view.y : view.x, ground, narrow);
    const y = axis(bars ? view.x : view.y, ground, narrow);
    const visible = view.series.filter(seen);
    ticks(x, visible.flatMap((series) => (bars ? series.y : series.x)));
    ticks(y, visible.flatMap((series) => (bars ? series.x : series.y)));
    if (bars) Object.assign(y, { autorange: "reversed", tickmode: "linear" });
    if (bars && view.y.kind === "percent") x.range = [0, 1.01];
    const shapes = [], annotations = [];
    if (view.level) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: view.level.y,
        y1: view.level.y, line: { color: ground.soft, width: 1, dash: "dash" } });
      annotations.push({ text: view.level.name, xref: "paper", x: 1, xanchor: "right",
        y: view.level.y, yanchor: "bottom", showarrow: false,
        font: { size: 11, color: ground.soft } });
    }
    for (const cut of view.cuts) {
      shapes.push({ type: "line", yref: "paper", y0: 0, y1: 1, x0: cut.x, x1: cut.x,
        line: { color: ground.accent, width: 1.5, dash: "dash" } });
      annotations.push({ text: cut.name, yref: "paper", y: 1, yanchor: "bottom", x: cut.x,
        showarrow: false, font: { size: 11, color: ground.accent } });
    }
    return { xaxis: x, yaxis: y,
      showlegend: false, hovermode: "closest", dragmode: matchMedia("(pointer: coarse)").matches
        ? false : "zoom",
      barmode: "group", bargap: 0.25, shapes: bars ? [] : shapes,
      annotations: bars ? [] : annotations,
      margin: { l: 52, r: 12, t: view.cuts.length ? 24 : 10, b: 44 },
      paper_bgcolor: ground.paper, plot_bgcolor: ground.paper,
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: ground.ink },
      hoverlabel: { bgcolor: ground.raised, bordercolor: ground.line, align: "left",
        font: { color: ground.ink, size: 13 } } };
  };

  const groundNow = () => {
    const css = getComputedStyle(root), of = (name) => css.getPropertyValue(`--${name}`).trim();
    return { paper: of("ground"), raised: of("raised"), ink: of("ink"), soft: of("soft"),
      line: of("line"), accent: of("accent") };
  };
  const LIGHT = { paper: "#ffffff", raised: "#f4f5f7", ink: "#1c1e21", soft: "#5b6068",
    line: "#d7dae0", accent: "#b8320d" };

  const last = (series) => (styleOf(series).width > 3 ? 1 : 0);
  const traces = (figure, view, night) => view.series
    .filter((series) => seen(series) && !figure.hidden.has(series.label))
    .sort((a, b) => last(a) - last(b))  // the emphasised line on top
    .map((series) => trace(series, view, night));

  const draw = (figure) => {
    const view = viewOf(figure);
    figure.drawn = true;
    showTables(figure);
    drawLegend(figure, view);
    return Plotly.react(figure.canvas, traces(figure, view), layout(figure, view, groundNow()),
      { responsive: true, displayModeBar: false });
  };

  const MARKS = { circle: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", square: "M-4-4h8v8h-8z",
    diamond: "M0-5L5 0L0 5L-5 0z", "triangle-up": "M0-5L5 4H-5z", "triangle-down": "M0 5L5-4H-5z",
    cross: "M-5-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z", x: "M-5-3l2-2l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3z",
    star: "M0-6L1.6-2H6L2.5 .9L3.8 5.2L0 2.6L-3.8 5.2L-2.5 .9L-6-2H-1.6z",
    pentagon: "M0-5L5-1L3 5H-3L-5-1z", hexagon: "M-2.5-5h5L5 0L2.5 5h-5L-5 0z",
    bowtie: "M-5-4L5 4V-4L-5 4z", hourglass: "M-4-5L4 5H-4L4-5z" };
  const DASH = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4",
    longdashdot: "11 3 2 3" };
  const key = (style) => {
    const ns = "http://www.w3.org/2000/svg", ink = colour(style.colour);
    const svg = document.createElementNS(ns, "svg");
    svg.setAttribute("width", 34); svg.setAttribute("height", 12);
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(ns, "path"), mark = document.createElementNS(ns, "path");
    line.setAttribute("d", "M0 6H34"); line.setAttribute("stroke", ink);
    line.setAttribute("stroke-width", style.width);
    line.setAttribute("stroke-dasharray", DASH[style.dash]);
    mark.setAttribute("d", MARKS[style.symbol]); mark.setAttribute("fill", ink);
    mark.setAttribute("transform", "translate(17 6)");
    svg.append(line, mark);
    return svg;
  };

  const drawLegend = (figure, view) => {
    figure.legend.replaceChildren();
    const named = new Map(view.series.filter(seen).reverse().map((one) => [one.label, one]));
    const visible = [...named.values()].reverse();  // the first of each name
    if (visible.length < 2) return;
    const order = Object.keys(look.styles);
    for (const series of visible.sort((a, b) => order.indexOf(a.label) - order.indexOf(b.label))) {
      const on = !figure.hidden.has(series.label);
      const button = make("button", { className: "key", type: "button",
        title: "Show or hide in this figure" }, key(styleOf(series)), series.label);
      button.setAttribute("aria-pressed", on);
      button.onclick = () => {
        figure.hidden[on ? "add" : "delete"](series.label);
        draw(figure);
      };
      button.onmouseenter = () => stress(figure, series.label);
      button.onmouseleave = () => stress(figure, null);
      figure.legend.append(button);
    }
  };
  const stress = (figure, label) => {
    if (!figure.canvas.data) return;
    Plotly.restyle(figure.canvas, "opacity",
      figure.canvas.data.map((one) => (label === null || one.name === label ? 1 : 0.15)));
  };

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const figure = figures.find((one) => one.canvas === entry.target);
      if (entry.isIntersecting && !figure.drawn) draw(figure);
    }
  }, { rootMargin: "600px" });
  for (const figure of figures) {
    near.observe(figure.canvas);
    figure.node.querySelector(".choices").addEventListener("change", () => draw(figure));
  }
  const redraw = () => { for (const figure of figures) if (figure.drawn) draw(figure); };
  addEventListener("beforeprint", () => figures.forEach(draw));
  system.addEventListener("change", () => { paint(); redraw(); });

  // -------------------------------------------------------------------------------------- bar
  const bar = make("div", { className: "row" });
  const present = new Set(Object.values(look.styles).map((style) => style.family));
  const chips = look.families.filter((family) => present.has(family.key)).map((family) => {
    const labels = Object.keys(look.styles).filter((l) => look.styles[l].family === family.key);
    const chip = make("button", { className: "chip", type: "button",
      title: labels.join(", ") }, `${family.title} (${labels.length})`);
    chip.onclick = () => {
      const off = labels.every((label) => shown.has(label));
      for (const label of labels) shown[off ? "delete" : "add"](label);
      press(); hideRows(); redraw();
    };
    chip.labels_ = labels;
    return chip;
  });
  const press = () => {
    for (const chip of chips)
      chip.setAttribute("aria-pressed", chip.labels_.some((label) => shown.has(label)));
  };
  if (chips.length > 1) bar.append(...chips);
  const THEMES = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
  const theme = make("button", { className: "theme", type: "button" }, THEMES.auto);
  theme.onclick = () => {
    const order = Object.keys(THEMES);
    wish = order[(order.indexOf(wish) + 1) % order.length];
    theme.textContent = THEMES[wish];
    paint(); redraw();
  };
  bar.append(theme);
  document.getElementById("bar").append(bar);

  // ----------------------------------------------------------------------------------- tables
  const showTables = (figure) => {
    const choice = choiceOf(figure);
    for (const table of all(".table", figure.node))
      table.hidden = !JSON.parse(table.dataset.options).every((option) => choice.includes(option));
  };
  const number = (cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value));
  const sort = (table, head, column) => {
    const body = table.tBodies[0], lines = [...body.rows];
    const numbers = lines.some((line) => number(line.cells[column]) !== null);
    const was = head.getAttribute("aria-sort");
    const up = was ? was !== "ascending" : !numbers;
    for (const other of all("th", table.tHead)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      const one = a.cells[column], two = b.cells[column];
      if (!numbers) return (up ? 1 : -1) * one.textContent.localeCompare(two.textContent);
      const first = number(one), second = number(two);
      if (first === null || second === null) return (first === null) - (second === null);
      return up ? first - second : second - first;
    };
    body.append(...lines.sort(compare));
    hideRows();
  };
  const sortable = (table) => {
    all("thead th", table).forEach((head, column) => {
      const button = make("button", { type: "button", title: "Sort" }, ...head.childNodes);
      button.onclick = () => sort(table, head, column);
      head.append(button);
    });
  };
  // rows of methods, or columns of them once a table is turned
  const hideRows = () => {
    for (const table of all("table")) {
      const off = (head) => head.dataset.label !== undefined
        && head.dataset.label in look.styles && !shown.has(head.dataset.label);
      const gone = all("thead th", table).map(off);
      for (const line of table.rows) {
        line.hidden = line.parentNode === table.tBodies[0] && off(line.cells[0]);
        [...line.cells].forEach((cell, column) => { cell.hidden = gone[column] || false; });
      }
    }
  };
  const turn = (table) => {
    const lines = [...table.rows].map((line) => [...line.cells]);
    const heads = lines[0].length, rows = [];
    for (let column = 0; column < heads; column += 1) rows.push(lines.map((line) => line[column]));
    const header = (cell, scope) => {
      const head = make("th", {}, cell.textContent);
      head.scope = scope;
      if (cell.dataset.label !== undefined) head.dataset.label = cell.dataset.label;
      return head;
    };
    const made = rows.map((cells, index) => {
      const line = make("tr");
      cells.forEach((cell, place) => line.append(
        index === 0 ? header(cell, "col") : place === 0 ? header(cell, "row") : cell));
      return line;
    });
    table.tHead.replaceChildren(made[0]);
    table.tBodies[0].replaceChildren(...made.slice(1));
    sortable(table); hideRows();
  };
  const visible = (table) => [...table.rows].filter((line) => !line.hidden)
    .map((line) => [...line.cells].filter((cell) => !cell.hidden));

  // ------------------------------------------------------------------------------------ files
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (lines) => lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
  const tableCsv = (table) => {
    const lines = visible(table), body = lines.slice(1);
    const has = (column, what) => body.some((cells) => cells[column].dataset[what] !== undefined);
    const columns = lines[0].map((head, column) =>
      ["spread", "n"].filter((what) => column > 0 && has(column, what)));
    const head = lines[0].flatMap((cell, column) => [cell.textContent,
      ...columns[column].map((what) => `${cell.textContent} (${what === "n" ? "n" : "±"})`)]);
    return csv([head, ...body.map((cells) => cells.flatMap((cell, column) => [
      cell.dataset.value ?? (cell.textContent === "–" ? "" : cell.textContent),
      ...columns[column].map((what) => cell.dataset[what] ?? "")]))]);
  };
  const TEX = { "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#",
    _: "\\_", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "±": "$\\pm$", "–": "--", "−": "$-$", "→": "$\\rightarrow$", "<": "$<$", ">": "$>$" };
  const tex = (text) => text.replace(/[\\&%$#_{}~^±–−→<>]/g, (letter) => TEX[letter]);
  const tableTex = (table) => {
    const lines = visible(table);
    const line = (cells) => cells.map((cell) => {
      const text = tex(cell.textContent.trim());
      return cell.classList.contains("best") ? `\\textbf{${text}}` : text;
    }).join(" & ") + " \\\\";
    return [`% ${table.dataset.note}`, "% needs \\usepackage{booktabs}",
      `\\begin{tabular}{l${"r".repeat(lines[0].length - 1)}}`, "\\toprule", line(lines[0]),
      "\\midrule", ...lines.slice(1).map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  };
  const figureCsv = (figure) => {
    const view = viewOf(figure), drawn = view.series.filter(seen)
      .filter((series) => !figure.hidden.has(series.label));
    const lines = drawn.flatMap((series) => series.x.map((x, i) =>
      [series.label, x, series.y[i], series.below[i], series.above[i], series.n[i]]));
    return csv([["series", view.x.title || "x", view.y.title, "error below", "error above", "n"],
      ...lines]);
  };
  const save = (name, text, type) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const picture = async (figure) => {
    const view = viewOf(figure), plain = layout(figure, view, LIGHT);
    const drawn = traces(figure, view, false), lines = Math.ceil(drawn.length / 4);
    const legend = { orientation: "h", yref: "container", y: 0, yanchor: "bottom" };
    const url = await Plotly.toImage(
      { data: drawn, layout: { ...plain, showlegend: drawn.length > 1, legend } },
      { format: "svg", width: 900, height: Math.max(540, figure.height) + 22 * lines });
    return decodeURIComponent(url.slice(url.indexOf(",") + 1));
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    const node = button.closest("figure"), holder = button.closest(".table");
    const figure = figures.find((one) => one.node === node);
    const table = holder && holder.querySelector("table");
    const title = node ? node.querySelector("h3").textContent : document.title;
    const name = `${title} ${table ? table.dataset.name : ""}`.trim()
      .replace(/[^\w.=-]+/g, "-").replace(/^-|-$/g, "").toLowerCase();
    const does = {
      svg: async () => save(`${name}.svg`, await picture(figure), "image/svg+xml"),
      "figure-csv": () => save(`${name}.csv`, figureCsv(figure), "text/csv"),
      csv: () => save(`${name}.csv`, tableCsv(table), "text/csv"),
      latex: () => save(`${name}.tex`, tableTex(table), "text/plain"),
      turn: () => turn(table),
    };
    await does[button.dataset.do]();
  });

  all("table").forEach(sortable);
  figures.forEach(showTables);
  press();
  hideRows();
})();
