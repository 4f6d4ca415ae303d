// Where images come from: the drawing field, a file, the camera, the test split.

import { ask, byId } from "./server.js";

const PEN = 20; // pixels of the field's 280
const STEP = 7; // that an arrow key moves the pen

// Calls show(blob, drawn, text) for each image given, and say(text, problem).
export function start(runs, mostBytes, show, say) {
  const canvas = runs.some((run) => run.canvas);
  byId("drawing").hidden = !canvas;
  byId("camera").hidden = runs.every((run) => run.grey) || !navigator.mediaDevices;
  byId("how").textContent = canvas
    ? "Draw, or look at an image. A file must be light on dark, as the data are."
    : "Look at an image.";
  if (canvas) startDrawing((blob) => show(blob, true, ""));

  const take = (file) => {
    if (!file) return;
    if (file.size > mostBytes) {
      say(`the file is larger than ${mostBytes >> 20} MiB`, true);
    } else {
      show(file, false, file.name);
    }
  };
  startFiles(take);
  startCamera((blob) => show(blob, false, "a picture of the camera"), say);
  byId("sample").addEventListener("click", async () => {
    const index = Math.floor(Math.random() * 2 ** 31);
    try {
      const found = await ask(`/api/runs/0/samples/${index}`);
      show(toBlob(found.picture), false, found.text);
    } catch (error) {
      say(error.message, true);
    }
  });
}

function toBlob(url) {
  const text = atob(url.slice(url.indexOf(",") + 1));
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

function startDrawing(drawn) {
  const canvas = byId("canvas");
  const context = canvas.getContext("2d");
  let last = null; // where the pen is down
  const pen = { x: 140, y: 140, down: false }; // that the keys move

  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(context, {
      strokeStyle: "#fff", lineWidth: PEN, lineCap: "round", lineJoin: "round",
    });
  };
  const line = (from, to) => {
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
  };
  const finish = () => canvas.toBlob(drawn);
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    line(last, next);
    last = next;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (last) finish();
      last = null;
    });
  }

  const moves = {
    ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP],
  };
  canvas.addEventListener("keydown", (event) => {
    if (moves[event.key]) {
      const inside = (value) => Math.min(Math.max(value, PEN / 2), canvas.width - PEN / 2);
      const [dx, dy] = moves[event.key];
      const next = { x: inside(pen.x + dx), y: inside(pen.y + dy) };
      if (pen.down) line(pen, next);
      Object.assign(pen, next);
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) line(pen, pen);
      else finish();
    } else if (event.key === "Delete") {
      clear();
    } else {
      return;
    }
    event.preventDefault();
  });
  byId("clear").addEventListener("click", clear);
  clear();
}

function startFiles(take) {
  const input = byId("file");
  const field = byId("drop");
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  // A file dropped beside the field would replace the page.
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => event.preventDefault());
  }
  field.addEventListener("dragover", () => field.classList.add("over"));
  field.addEventListener("dragleave", () => field.classList.remove("over"));
  field.addEventListener("drop", (event) => {
    field.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}

function startCamera(taken, say) {
  const video = byId("video");
  byId("camera").addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
      byId("viewfinder").hidden = false;
      byId("shoot").focus();
    } catch (error) {
      say(`the camera cannot be used: ${error.message}`, true);
    }
  });
  byId("shoot").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    for (const track of video.srcObject.getTracks()) track.stop();
    byId("viewfinder").hidden = true;
    canvas.toBlob(taken, "image/jpeg");
  });
}
