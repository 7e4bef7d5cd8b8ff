// The camera: a picture that moves, and a photo of it. Errors are CameraError with a kind.

const WANTED = { width: { ideal: 1920 }, height: { ideal: 1440 } };
const KINDS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
};

export class CameraError extends Error {
  constructor(kind) {
    super(kind);
    this.kind = kind;
  }
}

let stream = null;
let order = 0; // of openings: one that comes late is closed again
let deviceId = null;

// Shows the camera's picture in a <video>. `onEnd` is called when the camera goes away by itself.
export async function openCamera(video, onEnd) {
  closeCamera(video);
  order += 1;
  const mine = order;
  const opened = await request();
  if (mine !== order) {
    stop(opened);
    return false;
  }
  stream = opened;
  const [track] = opened.getVideoTracks();
  deviceId = track.getSettings().deviceId;
  track.addEventListener("ended", onEnd);
  video.srcObject = opened;
  await video.play().catch(() => {});
  return true;
}

async function request() {
  if (!navigator.mediaDevices) throw new CameraError("missing");
  const which = deviceId ? { deviceId: { ideal: deviceId } } : { facingMode: "environment" };
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { ...WANTED, ...which }, audio: false });
  } catch (error) {
    throw new CameraError(KINDS[error.name] ?? "busy");
  }
}

export function closeCamera(video) {
  order += 1;
  stop(stream);
  stream = null;
  video.srcObject = null;
}

function stop(closing) {
  for (const track of closing?.getTracks() ?? []) track.stop();
}

// How many cameras there are; known only while one is open.
export async function cameras() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === "videoinput").map((device) => device.deviceId);
}

// The one that the next `openCamera` opens.
export async function chooseNext() {
  const ids = await cameras();
  deviceId = ids[(ids.indexOf(deviceId) + 1) % ids.length];
}

// A JPEG of what the camera shows now, as it was seen.
export async function takePhoto(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  if (!canvas.width) throw new CameraError("busy");
  canvas.getContext("2d").drawImage(video, 0, 0);
  const photo = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  canvas.width = 0;
  if (!photo) throw new CameraError("busy");
  return photo;
}
