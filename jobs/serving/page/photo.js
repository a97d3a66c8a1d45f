// Photos: what the browser shows of a file. The file itself goes to the server as it is.

import { getPreview, Refusal } from './api.js';

const SMALLEST = 1024;

/** Opens a file for showing; returns {file, name, width, height, levels}, levels being ever smaller copies. */
export async function openPhoto(file, limits) {
  if (limits.max_bytes && file.size > limits.max_bytes) {
    throw new Refusal(`${file.name} has ${megabytes(file.size)}; this server takes ${megabytes(limits.max_bytes)}.`, 'Reduce the photo first.');
  }
  const image = await loadImage(file);
  if (!image) return openByServer(file);
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  // Before it is decoded, which takes four bytes a pixel.
  if (limits.max_pixels && width * height > limits.max_pixels) {
    throw new Refusal(
      `${file.name} has ${width} × ${height} pixels; this server takes ${Math.floor(limits.max_pixels / 1e6)} megapixels.`,
      'Reduce the photo first.',
    );
  }
  const bitmap = await createImageBitmap(image).catch(() => null);
  return bitmap ? { file, name: file.name, width, height, levels: smallerCopies(bitmap) } : openByServer(file);
}

/** Loads a file as far as its size; null where the browser cannot. */
async function loadImage(file) {
  const image = new Image();
  const url = URL.createObjectURL(file);
  try {
    await new Promise((done, failed) => Object.assign(image, { onload: done, onerror: failed, src: url }));
    return image;
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** Shows what this browser cannot, TIFF or HEIC, by the server's preview; the mask has the photo's own size all the same. */
async function openByServer(file) {
  const { size, blob } = await getPreview(file);
  return { file, name: file.name, width: size[0], height: size[1], levels: await openLevels(blob) };
}

/** Decodes an answer of the server; returns its levels. */
export async function openLevels(blob) {
  return smallerCopies(await createImageBitmap(blob));
}

/** A photo of 12 megapixels that is shown small would be scaled down with each frame; halves cost a third more memory. */
function smallerCopies(bitmap) {
  const levels = [bitmap];
  while (Math.max(levels.at(-1).width, levels.at(-1).height) > 2 * SMALLEST) {
    const last = levels.at(-1);
    const half = Object.assign(document.createElement('canvas'), { width: Math.ceil(last.width / 2), height: Math.ceil(last.height / 2) });
    half.getContext('2d').drawImage(last, 0, 0, half.width, half.height);
    levels.push(half);
  }
  return levels;
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
