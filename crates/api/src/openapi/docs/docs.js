// Renders the OpenAPI document of this server. Everything is built from nodes, never from text that is read as HTML.
"use strict";

/** Where this server is, also behind a proxy that adds a prefix: the page is right below it. */
const BASE = new URL(".", location.href).href.replace(/\/$/, "");

const METHODS = ["get", "post", "put", "patch", "delete"];
const content = document.getElementById("content");

/** An element with attributes and children; children that are null are left out. */
function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text in which `this` is code. */
function inline(text) {
  return text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));
}

function paragraphs(text) {
  return (text || "").split("\n\n").filter(Boolean).map((part) => el("p", {}, inline(part)));
}

/** Follows a reference inside the document. */
function resolve(api, value) {
  for (let depth = 0; value && value.$ref && depth < 8; depth += 1) {
    const { $ref, ...beside } = value;
    const target = $ref.slice(2).split("/").reduce((at, key) => at && at[key.replace(/~1/g, "/").replace(/~0/g, "~")], api);
    value = { ...target, ...beside };
  }
  return value || {};
}

/** A schema without the null that it also allows, and whether it does. */
function unwrap(api, schema) {
  let found = resolve(api, schema);
  let nullable = false;
  const choices = found.anyOf || found.oneOf;
  if (choices && !found.type) {
    const rest = choices.filter((choice) => choice.type !== "null");
    nullable = rest.length < choices.length;
    if (rest.length === 1) found = { ...resolve(api, rest[0]), ...(found.description ? { description: found.description } : {}) };
  }
  if (Array.isArray(found.type) && found.type.includes("null")) {
    nullable = true;
    const rest = found.type.filter((type) => type !== "null");
    found = { ...found, type: rest.length === 1 ? rest[0] : rest };
  }
  return { schema: found, nullable };
}

function typeName(api, schema) {
  const { schema: found, nullable } = unwrap(api, schema);
  let name = Array.isArray(found.type) ? found.type.join(" or ") : found.type || (found.enum ? "string" : "any");
  if (name === "array") name = `array of ${typeName(api, found.items || {})}`;
  if (found.format) name += `, ${found.format}`;
  return nullable ? `${name} or null` : name;
}

/** What a value must be beyond its type. */
function rules(api, schema) {
  const { schema: found } = unwrap(api, schema);
  const said = [];
  const items = found.type === "array" ? unwrap(api, found.items || {}).schema : {};
  if (found.enum) said.push(["One of", found.enum.map(String).join(", ")]);
  if (found.oneOf && found.oneOf.every((choice) => "const" in choice)) said.push(["One of", found.oneOf.map((choice) => choice.const).join(", ")]);
  if (items.oneOf && items.oneOf.every((choice) => "const" in choice)) said.push(["Elements", items.oneOf.map((choice) => choice.const).join(", ")]);
  if (found.minimum !== undefined || found.maximum !== undefined) said.push(["Range", `${found.minimum ?? ""}–${found.maximum ?? ""}`]);
  if (found.minItems || found.maxItems) said.push(["Elements", `${found.minItems ?? 0}–${found.maxItems ?? ""}`]);
  if (found.maxLength) said.push(["At most", `${found.maxLength} characters`]);
  if (found.default !== undefined) said.push(["Default", JSON.stringify(found.default)]);
  const pattern = found.pattern || items.pattern;
  if (pattern && pattern.length < 60) said.push(["Pattern", pattern]);
  if (said.length === 0) return null;
  return el("p", { class: "rules" }, said.flatMap(([label, value], at) => [at ? ", " : "", `${label}: `, el("code", {}, value)]));
}

/** The members of an object as a list, those of objects inside it folded away. */
function members(api, schema, depth) {
  const { schema: found } = unwrap(api, schema);
  const required = new Set(found.required || []);
  const rows = Object.entries(found.properties || {})
    .sort(([a], [b]) => required.has(b) - required.has(a))
    .map(([name, member]) => row(api, name, member, required.has(name), depth));
  return el("ul", { class: "members" }, rows);
}

function inner(api, schema) {
  const { schema: found } = unwrap(api, schema);
  return found.type === "array" ? inner(api, found.items || {}) : found;
}

function row(api, name, member, isRequired, depth) {
  const { schema } = unwrap(api, member);
  const nested = inner(api, member);
  return el("li", { class: schema.deprecated ? "old" : undefined },
    el("code", { class: "name" }, name),
    el("span", { class: "type" }, typeName(api, member)),
    isRequired ? el("span", { class: "flag" }, "required") : null,
    schema.deprecated ? el("span", { class: "flag" }, "deprecated") : null,
    paragraphs(member.description || schema.description),
    rules(api, member),
    nested.properties && depth < 3
      ? el("details", {}, el("summary", {}, "Members"), members(api, nested, depth + 1))
      : null);
}

/** A value that fits a schema. */
function sample(api, schema, depth, whole) {
  const { schema: found } = unwrap(api, schema);
  if (found.examples && found.examples.length) return found.examples[0];
  if (found.default !== undefined) return found.default;
  if (found.enum) return found.enum[0];
  if (found.oneOf && found.oneOf[0] && "const" in found.oneOf[0]) return found.oneOf[0].const;
  const type = Array.isArray(found.type) ? found.type[0] : found.type;
  if (type === "array") return depth > 3 ? [] : [sample(api, found.items || {}, depth + 1, whole)];
  if (type === "object") {
    const wanted = Object.entries(found.properties || {})
      .filter(([name, member]) => (whole ? !resolve(api, member).deprecated : (found.required || []).includes(name)));
    return Object.fromEntries(wanted.map(([name, member]) => [name, sample(api, member, depth + 1, whole)]));
  }
  if (type === "integer" || type === "number") return found.minimum || 0;
  if (type === "boolean") return false;
  if (found.format === "date-time") return "2026-01-31T12:00:00Z";
  return type === "string" ? "Text" : null;
}

/** The whole operation as a command. */
function curl(api, operation) {
  const path = operation.path.replace(/\{(\w+)\}/g, (_, name) => `$${name.toUpperCase()}`);
  const lines = [`curl ${operation.method === "get" ? "" : `-X ${operation.method.toUpperCase()} `}"${BASE}${path}"`];
  if (operation.security.length) lines.push('-H "Authorization: Bearer $POSTRIDER_TOKEN"');
  const [type, body] = Object.entries(resolve(api, operation.requestBody).content || {})[0] || [];
  if (type) {
    const value = sample(api, body.schema, 0, false);
    lines.push(`-H "Content-Type: ${type}"`, `-d '${JSON.stringify(value, null, 2).replace(/'/g, "'\\''")}'`);
  }
  return lines.join(" \\\n  ");
}

function code(title, text) {
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Select and copy";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
  return [el("h4", {}, title, copy), el("pre", { tabindex: 0 }, el("code", {}, text))];
}

function parameters(api, operation) {
  const groups = [["path", "Path parameters"], ["query", "Query parameters"], ["header", "Headers"]];
  return groups.map(([place, title]) => {
    const own = operation.parameters.map((parameter) => resolve(api, parameter)).filter((parameter) => parameter.in === place);
    if (!own.length) return null;
    const rows = own.map((parameter) =>
      row(api, parameter.name, { ...parameter.schema, description: parameter.description }, parameter.required, 0));
    return [el("h4", {}, title), el("ul", { class: "members" }, rows)];
  });
}

function body(api, operation) {
  const entries = Object.entries(resolve(api, operation.requestBody).content || {});
  return entries.map(([type, { schema }]) => [
    el("h4", {}, entries.length > 1 ? `Body, as ${type}` : "Body"),
    el("div", { class: "text" }, paragraphs(inner(api, schema).description)),
    members(api, inner(api, schema), 0),
  ]);
}

function answers(api, operation) {
  const all = Object.entries(operation.responses).map(([status, given]) => {
    const response = resolve(api, given);
    const schema = (response.content && response.content["application/json"] || {}).schema;
    const found = schema ? inner(api, schema) : {};
    const title = [el("span", { class: `status ${status < 400 ? "fine" : "wrong"}` }, status), ...inline(response.description)];
    return el("details", {}, el("summary", {}, title), found.properties ? members(api, found, 0) : el("p", {}, "No body."));
  });
  return [el("h4", {}, "Answers"), el("div", { class: "answers" }, all)];
}

function example(api, operation) {
  const [status, given] = Object.entries(operation.responses)[0];
  const schema = ((resolve(api, given).content || {})["application/json"] || {}).schema;
  return status < 400 && schema ? code(`Answer ${status}`, JSON.stringify(sample(api, schema, 0, true), null, 2)) : null;
}

function address(operation) {
  const parts = operation.path.split(/(\{\w+\})/).map((part) => (part.startsWith("{") ? el("var", {}, part) : part));
  return el("p", { class: "address" }, el("span", { class: `method ${operation.method}` }, operation.method.toUpperCase()), parts);
}

function article(api, operation) {
  return el("article", { id: operation.operationId, "aria-labelledby": `title-${operation.operationId}` },
    el("header", {},
      el("h3", { id: `title-${operation.operationId}` }, el("a", { href: `#${operation.operationId}` }, operation.summary)),
      address(operation)),
    el("div", { class: "text" },
      paragraphs(operation.description),
      operation["x-differs"] ? el("p", {}, el("strong", {}, "Different from Svix: "), inline(operation["x-differs"])) : null,
      parameters(api, operation), body(api, operation), answers(api, operation)),
    el("div", { class: "aside" }, code("Request", curl(api, operation)), example(api, operation)));
}

function absent(api) {
  const all = api["x-not-implemented"] || [];
  if (!all.length) return null;
  const reasons = [...new Set(all.map(({ description }) => description))];
  return el("section", { class: "group", id: "not-implemented" },
    el("h2", {}, "Not implemented"),
    el("p", { class: "intro" }, "Clients of Svix know these operations. Here they answer ", el("code", {}, "501"), "."),
    reasons.map((reason) => {
      const own = all.filter(({ description }) => description === reason);
      return el("div", { class: "absent" }, el("p", {}, inline(reason), " ", el("strong", {}, "Instead: "), inline(own[0].instead)),
        el("ul", {}, own.map(({ method, path }) =>
          el("li", { "data-text": `${method} ${path} ${reason}`.toLowerCase() },
            el("span", { class: `method ${method.toLowerCase()}` }, method), " ", el("code", {}, path)))));
    }));
}

/** Every operation, in the order of the document's tags. */
function operations(api) {
  const all = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })));
  return api.tags.map(({ name }) => ({ name, operations: all.filter((operation) => operation.tags[0] === name) }));
}

function render(api) {
  document.getElementById("version").textContent = api.info.version;
  content.append(
    el("h1", {}, `${api.info.title} API`),
    el("div", { class: "intro text" }, el("p", {}, api.info.summary), paragraphs(api.info.description)));
  const nav = document.getElementById("nav");
  for (const { name, operations: own } of operations(api)) {
    nav.append(el("div", {}, el("h2", {}, name), el("ul", {}, own.map((operation) =>
      el("li", {}, el("a", { href: `#${operation.operationId}` },
        el("span", { class: `method ${operation.method}` }, operation.method.toUpperCase()), operation.summary))))));
    const section = el("section", { class: "group" }, el("h2", {}, name), own.map((operation) => {
      const shown = article(api, operation);
      shown.dataset.text = searchable(api, operation);
      return shown;
    }));
    content.append(section);
  }
  const rest = absent(api);
  if (rest) {
    content.append(rest);
    nav.append(el("div", {}, el("ul", {}, el("li", {}, el("a", { href: "#not-implemented" }, "Not implemented")))));
  }
}

/** Words that people type, and how the document says them. */
const SYNONYMS = {
  send: ["message.create", "resend"], publish: ["message.create"], event: ["message", "event"], webhook: ["endpoint", "message"],
  retry: ["resend", "recover", "replay", "attempt"], retries: ["resend", "recover", "replay", "attempt"], again: ["resend", "recover", "replay"],
  redeliver: ["resend", "recover", "replay"], pause: ["disable"], stop: ["disable"], resume: ["disable"], enable: ["disable"],
  remove: ["delete", "expunge"], erase: ["delete", "expunge"], url: ["endpoint"], customer: ["application"], tenant: ["application"],
  user: ["application"], subscribe: ["endpoint.create"], subscription: ["endpoint"], log: ["attempt"], logs: ["attempt"], history: ["attempt"],
  failed: ["attempt", "recover"], delivery: ["attempt", "deliver"], deliveries: ["attempt", "deliver"], signature: ["secret"], key: ["secret", "access"], token: ["access", "secret"], portal: ["access"],
  filter: ["event_types", "eventtypes", "channel"], limit: ["throttlerate", "rate"], schema: ["event type", "schema"], topic: ["event type", "event_types"],
};

/** Words that say nothing about what is looked for. */
const FILLERS = new Set(["a", "an", "the", "to", "of", "for", "how", "do", "i", "in", "my", "is", "it", "and", "with"]);

/** What is looked for: for each word, the spellings of which one must be there. */
function query(text) {
  const words = text.toLowerCase().split(/[^\p{L}\p{N}_.-]+/u).filter((word) => word && !FILLERS.has(word));
  return words.map((word) => {
    const stem = word.length > 3 ? word.replace(/(?:ing|es|s)$/, "") : word;
    return [word, stem, ...(SYNONYMS[word] || SYNONYMS[stem] || [])];
  });
}

/** Everything that is written about an operation, the names of its parameters and members included. */
function searchable(api, operation) {
  const names = operation.parameters.map((parameter) => resolve(api, parameter).name);
  const bodies = Object.values(resolve(api, operation.requestBody).content || {}).map(({ schema }) => inner(api, schema).properties || {});
  return [operation.method, operation.path, operation.summary, operation.operationId, operation.description, operation.tags,
    names, bodies.map(Object.entries).flat().map(([name, member]) => `${name} ${member.description || ""}`)]
    .flat(Infinity).join(" ").toLowerCase();
}

/** Hides what does not have every word that was typed, or another word for it. */
function search(text) {
  const words = query(text);
  const fits = (element) => words.every((spellings) => spellings.some((word) => element.dataset.text.includes(word)));
  let found = 0;
  for (const element of content.querySelectorAll("[data-text]")) {
    element.hidden = !fits(element);
    if (!element.hidden) found += 1;
    const link = element.id && document.querySelector(`nav a[href="#${CSS.escape(element.id)}"]`);
    if (link) link.parentElement.hidden = element.hidden;
  }
  for (const group of document.querySelectorAll("#nav > div")) {
    group.hidden = [...group.querySelectorAll("li")].every((item) => item.hidden);
  }
  for (const group of content.querySelectorAll(".group, .absent")) {
    group.hidden = ![...group.querySelectorAll("[data-text]")].some((element) => !element.hidden);
  }
  document.getElementById("found").textContent = words.length ? `${found} ${found === 1 ? "operation" : "operations"}` : "";
}

/** Marks the operation that is read in the list of operations. */
function follow() {
  const mark = (id) => {
    for (const link of document.querySelectorAll("nav a[aria-current]")) link.removeAttribute("aria-current");
    const link = document.querySelector(`nav a[href="#${CSS.escape(id)}"]`);
    if (!link) return;
    link.setAttribute("aria-current", "true");
    const nav = document.getElementById("nav");
    const at = link.offsetTop - nav.offsetTop;
    if (at < nav.scrollTop || at > nav.scrollTop + nav.clientHeight - 40) nav.scrollTop = at - nav.clientHeight / 2;
  };
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) mark(entry.target.id);
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const element of content.querySelectorAll("article, #not-implemented")) observer.observe(element);
}

async function start() {
  try {
    const answer = await fetch(`${BASE}/api/v1/openapi.json`);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    render(await answer.json());
  } catch (error) {
    content.append(el("p", { role: "alert" }, `The document could not be read: ${error.message}. Reload the page to try again.`));
    return;
  }
  const input = document.getElementById("search");
  input.addEventListener("input", () => search(input.value));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      input.focus();
    }
  });
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  follow();
}

start();
