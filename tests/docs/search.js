// Ask the search of a site that Sphinx has built, as its search page does: node search.js HTML QUERY ...
// Writes a JSON list for each query: the pages (with the place on them) that it finds, best first.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const [html, ...queries] = process.argv.slice(2);
const element = {append: () => {}, appendChild: () => {}, replaceChildren: () => {}, set innerText(_) {}, dataset: {}};
const context = vm.createContext({
  console,
  document: {
    ...element,
    addEventListener: () => {},
    createElement: () => element,
    documentElement: element,
    getElementById: () => element,
    readyState: "loading",
  },
  localStorage: {getItem: () => null, removeItem: () => {}, setItem: () => {}},
  URLSearchParams,
  location: {search: ""},
});
context.window = context;
const load = (name) => fs.readFileSync(path.join(html, name), "utf-8");
const page = load("search.html");
const scripts = [...page.matchAll(/<script src="(_static\/[\w-]+\.js)/g)].map((match) => match[1]);
const needed = scripts.filter((name) => !name.includes("furo") && !name.includes("sphinx_highlight"));
const source = [...needed.map(load), "const SPHINX_HIGHLIGHT_ENABLED = false;", "Search.init = () => {};", load("searchindex.js")];
const ask = `;(query) => Search._performSearch(...Search._parseQuery(query))`;
const search = vm.runInContext(`${source.join("\n")}\n${ask}`, context);
const seen = (query) => search(query).reverse().map(([name, , anchor]) => name + anchor);
console.log(JSON.stringify(queries.map(seen)));
