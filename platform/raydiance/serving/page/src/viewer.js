// Shows a GLB on the stage. Frames are drawn only while something moves.
import {
  CanvasTexture,
  Box3,
  Color,
  Group,
  Mesh,
  MeshBasicMaterial,
  NoToneMapping,
  PerspectiveCamera,
  PlaneGeometry,
  Scene,
  WebGLRenderer,
} from "three";
import { GLTFLoader } from "three/examples/jsm/loaders/GLTFLoader.js";
import { Orbit } from "./orbit.js";

const FIELD_OF_VIEW = 42; // as the previews have it
const THUMBNAIL = 192;

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.renderer.toneMapping = NoToneMapping;
    this.camera = new PerspectiveCamera(FIELD_OF_VIEW, 1, 0.05, 40);
    this.scene = new Scene();
    this.place = new Group();
    this.floor = shadow();
    this.scene.add(this.place, this.floor);
    this.orbit = new Orbit(canvas, () => this.wake());
    this.loader = new GLTFLoader();
    this.last = 0;
    this.frame = 0;
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
    this.fit();
  }

  /** Put the GLB on the stage. */
  async show(bytes) {
    const { scene } = await this.loader.parseAsync(bytes, "");
    this.clear();
    this.place.add(scene);
    const box = new Box3().setFromObject(scene);
    this.floor.visible = true;
    this.floor.position.set((box.min.x + box.max.x) / 2, box.min.y - 0.002, (box.min.z + box.max.z) / 2);
    this.floor.scale.set((box.max.x - box.min.x) * 1.5, (box.max.z - box.min.z) * 1.5, 1);
    let triangles = 0;
    scene.traverse((node) => {
      if (node.isMesh) triangles += (node.geometry.index?.count ?? node.geometry.attributes.position.count) / 3;
    });
    this.draw();
    return { triangles };
  }

  clear() {
    for (const old of [...this.place.children]) {
      this.place.remove(old);
      dispose(old);
    }
    this.floor.visible = false;
    this.draw();
  }

  /** A small square picture of a GLB, as the stage shows it first; the stage stays as it is. */
  async pictureOf(bytes) {
    const { scene } = await this.loader.parseAsync(bytes, "");
    const shown = [...this.place.children];
    const floor = this.floor.visible;
    this.floor.visible = false;
    this.place.clear();
    this.place.add(scene);
    const picture = this.thumbnail();
    this.place.clear();
    dispose(scene);
    if (shown.length) this.place.add(...shown);
    this.floor.visible = floor;
    this.draw(); // in the same task, so nobody has seen the other one
    return picture;
  }

  /** A small square picture of what is on the stage, from where it is seen first. */
  thumbnail() {
    const now = this.orbit.now;
    this.orbit.now = this.orbit.first;
    this.draw();
    this.orbit.now = now;
    const small = document.createElement("canvas");
    small.width = small.height = THUMBNAIL;
    const { width, height } = this.canvas;
    const side = Math.min(width, height);
    const box = [(width - side) / 2, (height - side) / 2, side, side];
    small.getContext("2d").drawImage(this.canvas, ...box, 0, 0, THUMBNAIL, THUMBNAIL);
    this.draw();
    return small.toDataURL("image/webp", 0.85);
  }

  setTurning(turning) {
    this.orbit.turning = turning;
    this.wake();
  }

  setShadow(strength) {
    this.floor.material.opacity = strength;
    this.draw();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    // narrower than high: the object still has to fit
    const half = Math.tan((FIELD_OF_VIEW * Math.PI) / 360) / Math.min(1, this.camera.aspect);
    this.camera.fov = (Math.atan(half) * 360) / Math.PI;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  wake() {
    if (!this.frame) {
      this.last = performance.now();
      this.frame = requestAnimationFrame((now) => this.tick(now));
    }
  }

  tick(now) {
    const moving = this.orbit.advance(Math.min(0.1, (now - this.last) / 1000));
    this.last = now;
    this.draw();
    this.frame = moving ? requestAnimationFrame((next) => this.tick(next)) : 0;
  }

  draw() {
    this.orbit.place(this.camera);
    this.renderer.render(this.scene, this.camera);
    this.canvas.dataset.azimuth = this.orbit.now.azimuth.toFixed(3);
    this.canvas.dataset.distance = this.orbit.now.distance.toFixed(3);
  }
}

function dispose(root) {
  root.traverse((node) => {
    node.geometry?.dispose();
    node.material?.dispose();
  });
}

/** A soft dark spot under the object. */
function shadow() {
  const size = 128;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const spot = context.createRadialGradient(size / 2, size / 2, 0, size / 2, size / 2, size / 2);
  spot.addColorStop(0, "rgba(0,0,0,0.55)");
  spot.addColorStop(0.6, "rgba(0,0,0,0.22)");
  spot.addColorStop(1, "rgba(0,0,0,0)");
  context.fillStyle = spot;
  context.fillRect(0, 0, size, size);
  const material = new MeshBasicMaterial({
    map: new CanvasTexture(canvas),
    color: new Color(0x000000),
    transparent: true,
    depthWrite: false,
    opacity: 0.5,
  });
  const floor = new Mesh(new PlaneGeometry(1, 1), material);
  floor.rotation.x = -Math.PI / 2;
  floor.renderOrder = -1;
  floor.visible = false;
  return floor;
}
