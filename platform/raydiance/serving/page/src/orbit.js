// A camera on a sphere round the origin, moved by pointer, wheel and keys; it glides to where it was sent.

const HOME = { azimuth: Math.PI / 4, elevation: (20 * Math.PI) / 180, distance: 2.9 }; // the previews' view
const GLIDE = 0.22;
const NEAREST = 1.4;
const FARTHEST = 7;
const STEEPEST = (86 * Math.PI) / 180;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Orbit {
  constructor(element, changed) {
    this.now = { ...HOME };
    this.goal = { ...HOME };
    this.first = HOME;
    this.turning = false;
    this.changed = changed;
    this.pointers = new Map();
    this.listen(element);
  }

  home() {
    // the shortest way back, not all the turns again
    const turns = Math.round((this.goal.azimuth - HOME.azimuth) / (2 * Math.PI)) * 2 * Math.PI;
    this.goal = { ...HOME, azimuth: HOME.azimuth + turns };
    this.changed();
  }

  /** One frame on; whether it still moves. */
  advance(seconds) {
    if (this.turning) this.goal.azimuth -= seconds * 0.35;
    let moved = 0;
    for (const name of Object.keys(this.now)) {
      const left = this.goal[name] - this.now[name];
      this.now[name] += left * (1 - (1 - GLIDE) ** (seconds * 60));
      moved = Math.max(moved, Math.abs(left));
    }
    return this.turning || moved > 1e-4;
  }

  place(camera) {
    const { azimuth, elevation, distance } = this.now;
    const flat = Math.cos(elevation) * distance;
    camera.position.set(Math.sin(azimuth) * flat, Math.sin(elevation) * distance, Math.cos(azimuth) * flat);
    camera.lookAt(0, 0, 0);
  }

  move(azimuth, elevation, zoom = 1) {
    this.goal.azimuth += azimuth;
    this.goal.elevation = clamp(this.goal.elevation + elevation, -STEEPEST, STEEPEST);
    this.goal.distance = clamp(this.goal.distance * zoom, NEAREST, FARTHEST);
    this.changed();
  }

  listen(element) {
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
    });
    const lift = (event) => this.pointers.delete(event.pointerId);
    element.addEventListener("pointerup", lift);
    element.addEventListener("pointercancel", lift);
    element.addEventListener("pointermove", (event) => this.drag(event, element));
    element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.move(0, 0, Math.exp(clamp(event.deltaY, -120, 120) * 0.0015));
      },
      { passive: false },
    );
    element.addEventListener("keydown", (event) => this.press(event));
  }

  drag(event, element) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (other) {
      const apart = (a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY);
      this.move(0, 0, apart(before) / Math.max(1, apart(event)));
      return;
    }
    const scale = Math.PI / element.clientHeight;
    this.move(-(event.clientX - before.clientX) * scale, (event.clientY - before.clientY) * scale);
  }

  press(event) {
    const moves = {
      ArrowLeft: [-0.2, 0],
      ArrowRight: [0.2, 0],
      ArrowUp: [0, 0.15],
      ArrowDown: [0, -0.15],
      "+": [0, 0, 0.88],
      "=": [0, 0, 0.88],
      "-": [0, 0, 1.14],
    };
    if (event.key === "0") this.home();
    else if (moves[event.key]) this.move(...moves[event.key]);
    else return;
    event.preventDefault();
  }
}
