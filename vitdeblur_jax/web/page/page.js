// The page of `vitdeblur web`. The server's list of images is the only state; strengths are this tab's.
const get = (id) => document.getElementById(id);
const strengths = new Map();  // by id of the image, in hundredths
const rows = new Map();       // elements of the list, by id of the image
const held = [];              // files that wait in this tab until the server has room
let state = { models: [], examples: [], limits: {}, jobs: [] };
let selected = null, isUploading = false, isConnected = true, timer;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function complain(line) {
  const close = make("button", { type: "button", textContent: "Close" });
  const item = make("li", {}, make("span", { textContent: line }), close);
  close.addEventListener("click", () => item.remove());
  get("errors").append(item);
}

const say = (line) => { get("status").textContent = line; };
const find = (id) => state.jobs.find((job) => job.id === id);
const isActive = (job) => ["uploading", "waiting", "running"].includes(job.state);
const strengthOf = (id) => (strengths.get(id) ?? 100) / 100;

// Requests

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch("state");
    if (!answer.ok) throw new Error(answer.statusText);
    update(await answer.json());
    isConnected = true;
  } catch (error) {
    if (!(error instanceof TypeError) && isConnected) console.error(error);
    if (isConnected) complain("The server does not answer. If it has ended, start vitdeblur web again.");
    isConnected = false;
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, state.jobs.some(isActive) && isConnected ? 400 : 2500);
}

function add(files) {
  for (const file of files) held.push(file);
  upload();
}

async function upload() {
  if (isUploading) return;
  isUploading = true;
  while (held.length) {
    const waiting = state.jobs.filter((job) => ["uploading", "waiting"].includes(job.state)).length;
    if (waiting >= state.limits.waiting) break;  // `update` calls again
    const file = held.shift();
    showHeld();
    await send(file);
    await refresh();
  }
  isUploading = false;
  showHeld();
}

async function send(file) {
  const limit = state.limits.upload_bytes, mebibytes = (size) => Math.ceil(size / 2 ** 20 * 10) / 10;
  if (file.size > limit) {  // the server refuses it too, but would have to read it
    complain(`${file.name}: the file has ${mebibytes(file.size)} MiB; the limit is ${mebibytes(limit)} MiB`);
    return;
  }
  const query = new URLSearchParams({ name: file.name, model: get("model").value });
  try {
    const answer = await fetch(`jobs?${query}`, { method: "POST", body: file });
    if (!answer.ok) complain(await refusal(answer, file.name));
    else if (!find(selected)) selected = (await answer.json()).id;
  } catch {
    complain(`${file.name}: cannot be sent; it may be a folder, or the server has ended`);
  }
}

// Not all refusals are JSON: those of other hosts and of too many connections are plain text.
async function refusal(answer, name) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error;
  } catch {
    return `${name}: ${text.slice(0, 200) || answer.status}`;
  }
}

async function addExample(name) {
  try {
    const answer = await fetch(`examples/${name}`);
    if (answer.ok) add([new File([await answer.blob()], name)]);
    else complain(await refusal(answer, name));
  } catch {
    complain(`${name}: cannot be loaded; the server may have ended`);
  }
}

async function remove(job) {
  try {
    const answer = await fetch(`jobs/${job.id}`, { method: "DELETE" });
    if (answer.ok || answer.status === 404) say(`${job.name}: ${isActive(job) ? "cancelled" : "removed"}`);
    else complain(await refusal(answer, job.name));
  } catch {
    complain(`${job.name}: cannot be removed; the server may have ended`);
  }
  await refresh();
}

// The list

function update(fresh) {
  const before = new Map(state.jobs.map((job) => [job.id, job.state]));
  state = fresh;
  for (const job of state.jobs) {
    const isNews = before.has(job.id) && before.get(job.id) !== job.state;
    if (isNews && ["done", "failed"].includes(job.state)) say(`${job.name}: ${words(job)}`);
  }
  if (!find(selected)) selected = (state.jobs.findLast(isShown) ?? state.jobs[0])?.id ?? null;
  document.body.classList.toggle("empty", !state.jobs.length);
  showModels();
  showExamples();
  showList();
  showViewer();
  if (held.length) upload();
}

const isShown = (job) => job.state === "done";

function words(job) {
  if (job.state === "done") return job.size.join(" × ");
  if (job.state === "failed") return job.error;
  if (job.state !== "running") return job.state;
  if (!job.progress) return "preparing the model";
  const percent = `${Math.floor(100 * job.progress)} %`;
  return job.seconds_left === null ? percent : `${percent}, ${duration(job.seconds_left)} left`;
}

function duration(seconds) {
  return seconds < 100 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

function showModels() {
  const select = get("model");
  if (select.options.length === state.models.length) return;
  select.replaceChildren(...state.models.map((name, index) => new Option(name, index)));
}

function showExamples() {
  const buttons = get("example-buttons");
  if (buttons.children.length === state.examples.length) return;
  buttons.replaceChildren(...state.examples.map((name) => {
    const image = make("img", { src: `examples/${name}`, alt: "" });
    const button = make("button", { type: "button" }, image, name.replace(/\.\w+$/, ""));
    button.addEventListener("click", () => addExample(name));
    return button;
  }));
}

function showHeld() {
  get("held").hidden = !held.length;
  get("held").textContent = `${held.length} more wait in this tab`;
}

function showList() {
  const present = new Set(state.jobs.map((job) => job.id));
  for (const [id, row] of rows) {
    if (present.has(id)) continue;
    row.item.remove();
    rows.delete(id);
  }
  for (const job of state.jobs) {
    if (!rows.has(job.id)) rows.set(job.id, makeRow(job));
    showRow(rows.get(job.id), job);
  }
  const done = state.jobs.filter(isShown);
  get("zip").hidden = done.length < 2;
  get("zip").href = `results.zip?${new URLSearchParams(done.map((job) => [job.id, strengthOf(job.id)]))}`;
}

function makeRow(job) {
  const picture = make("span", { className: "picture" }), status = make("span", { className: "state" });
  const bar = make("progress", { max: 1 });
  bar.setAttribute("aria-label", `Progress of ${job.name}`);
  const text = make("span", {}, make("span", { className: "name", textContent: job.name }), status, bar);
  const open = make("button", { type: "button", className: "open" }, picture, text);
  const removal = make("button", { type: "button", className: "remove", textContent: "✕" });
  open.addEventListener("click", () => { selected = job.id; showList(); showViewer(); });
  removal.addEventListener("click", () => remove(find(job.id) ?? job));
  const item = make("li", {}, open, removal);
  get("jobs").append(item);
  return { item, picture, status, bar, open, removal };
}

function showRow(row, job) {
  row.item.className = job.state;
  row.status.textContent = words(job);
  row.open.setAttribute("aria-current", job.id === selected);
  row.removal.setAttribute("aria-label", `${isActive(job) ? "Cancel" : "Remove"} ${job.name}`);
  row.removal.title = isActive(job) ? "Cancel" : "Remove";
  row.bar.hidden = job.state !== "running";
  setProgress(row.bar, job);
  if (job.size && !row.picture.children.length) {
    row.picture.append(make("img", { src: `jobs/${job.id}/thumbnail.png`, alt: "" }));
  }
}

function setProgress(bar, job) {
  if (job.progress) bar.value = job.progress;
  else bar.removeAttribute("value");
}

// The viewer

let shown = {};  // what the images show: setting `src` again would load them again

function showViewer() {
  const job = find(selected), stage = get("stage");
  get("viewer").hidden = !job;
  if (!job) return;
  const isDone = job.state === "done";
  get("title").textContent = job.name;
  stage.hidden = job.state === "failed";
  get("failure").textContent = job.error ?? "";
  stage.classList.toggle("done", isDone);
  for (const id of ["views", "controls", "zoom"]) get(id).hidden = !isDone;
  get("working").hidden = isDone;
  get("working-text").textContent = words(job);
  setProgress(get("working-bar"), job);
  get("notes").replaceChildren(...job.notes.map((note) => make("li", { textContent: `Note: ${note}` })));
  if (shown.id !== job.id) {
    get("strength").value = strengths.get(job.id) ?? 100;
    for (const id of ["before", "after", "change"]) get(id).removeAttribute("src");
    shown = { id: job.id };
  }
  if (job.size) load("before", `jobs/${job.id}/before.png`, `${job.name}, before`);
  if (isDone) load("after", `jobs/${job.id}/after.png`, `${job.name}, restored`);
  showStrength();
  showChange();
  layout();
}

function load(id, address, alt) {
  if (shown[id] === address) return;
  shown[id] = address;
  Object.assign(get(id), { src: address, alt });
}

function showStrength() {
  const value = get("strength").value, query = `strength=${value / 100}`;
  get("strength-value").textContent = `${value} %`;
  get("stage").style.setProperty("--strength", value / 100);
  get("download").href = `jobs/${selected}/result?${query}`;
  get("download-change").href = `jobs/${selected}/change?${query}`;
}

function showChange() {
  const isMap = document.querySelector("[name=view]:checked").value === "change";
  const job = find(selected), isDone = job?.state === "done";
  get("stage").classList.toggle("shows-change", isMap && isDone);
  for (const id of ["legend", "download-change"]) get(id).hidden = !isMap || !isDone;
  if (isMap && isDone) {
    load("change", `jobs/${job.id}/change?strength=${strengthOf(job.id)}`, `${job.name}, map of the change`);
  }
}

function layout() {
  const job = find(selected), stage = get("stage"), isFull = get("zoom").ariaPressed === "true";
  if (!job?.size) return;
  const [width, height] = job.size, room = [get("viewer").clientWidth - 32, 0.7 * innerHeight];
  const scale = isFull && job.state === "done" ? 1 / devicePixelRatio
    : Math.min(1, room[0] / width, room[1] / height);
  const sides = { "layer-width": width * scale, "layer-height": height * scale };
  sides["stage-width"] = Math.min(room[0], width * scale);
  sides["stage-height"] = Math.min(room[1], height * scale);
  for (const [name, side] of Object.entries(sides)) stage.style.setProperty(`--${name}`, `${side}px`);
  stage.classList.toggle("full", isFull);
  stage.classList.toggle("whole", !isFull);
  cut();
}

// The divider is at a place of the stage; the upper image is cut where it crosses it.
function cut() {
  const share = get("split").value / 100, scroller = get("scroller");
  get("stage").style.setProperty("--split", `${100 * share}%`);
  get("stage").style.setProperty("--cut", `${scroller.scrollLeft + share * get("stage").clientWidth}px`);
  get("split").setAttribute("aria-valuetext", `${Math.round(100 * share)} % before`);
}

function toggleZoom() {
  const button = get("zoom"), scroller = get("scroller");
  button.ariaPressed = String(button.ariaPressed !== "true");
  layout();
  scroller.scrollTo((scroller.scrollWidth - scroller.clientWidth) / 2,
    (scroller.scrollHeight - scroller.clientHeight) / 2);
  cut();
}

function drag(event) {  // moves the divider, or at 100 % the image; touch scrolls by itself
  const scroller = get("scroller"), isFull = get("stage").classList.contains("full");
  const setSplit = (x) => {
    const box = get("stage").getBoundingClientRect();
    get("split").value = 100 * (x - box.left) / box.width;
    cut();
  };
  if (event.button || (isFull && event.pointerType === "touch")) return;
  if (isFull && event.offsetX > scroller.clientWidth) return;
  let last = event;
  const move = (next) => {
    if (isFull) scroller.scrollBy(last.clientX - next.clientX, last.clientY - next.clientY);
    else setSplit(next.clientX);
    last = next;
  };
  if (!isFull) setSplit(event.clientX);
  scroller.setPointerCapture(event.pointerId);
  scroller.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) {
    scroller.addEventListener(end, () => scroller.removeEventListener("pointermove", move), { once: true });
  }
}

// Events

get("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", () => document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  add(event.dataTransfer.files);
});
get("strength").addEventListener("input", (event) => {
  strengths.set(selected, Number(event.target.value));
  showStrength();
});
get("strength").addEventListener("change", () => { showChange(); showList(); });
get("views").addEventListener("change", showChange);
get("zoom").addEventListener("click", toggleZoom);
get("split").addEventListener("input", cut);
get("scroller").addEventListener("scroll", cut);
get("scroller").addEventListener("pointerdown", drag);
addEventListener("resize", layout);
addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
