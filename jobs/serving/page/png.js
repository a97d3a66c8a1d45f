// Masks as files: written as 8-bit gray PNG, white in the hole; read from any picture.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** Encodes a mask; returns a Blob. */
export async function encodeMask({ width, height, pixels }) {
  // Each row begins with its filter, 0.
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) if (pixels[y * width + x]) rows[y * (width + 1) + 1 + x] = 255;
  }
  const packed = new Blob([rows]).stream().pipeThrough(new CompressionStream('deflate'));
  const data = new Uint8Array(await new Response(packed).arrayBuffer());
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header[8] = 8; // bits; the other four say gray and the usual
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  return new Blob([signature, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', new Uint8Array(0))], { type: 'image/png' });
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  let sum = 0xffffffff;
  for (let place = 4; place < 8 + data.length; place++) sum = TABLE[(sum ^ bytes[place]) & 255] ^ (sum >>> 8);
  view.setUint32(8 + data.length, ~sum >>> 0);
  return bytes;
}

/** Reads a mask by the server's rules: white is hole from 128 on; without colours, what is opaque. */
export async function decodeMask(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none' });
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height);
  let [gray, alpha, everyGray, everyAlpha] = [0, 0, true, true];
  const of = (place) => Math.max(rgba[place], rgba[place + 1], rgba[place + 2]);
  for (let place = 0; place < rgba.length; place += 4) {
    if (!place) [gray, alpha] = [of(0), rgba[3]];
    if (of(place) !== gray) everyGray = false;
    if (rgba[place + 3] !== alpha) everyAlpha = false;
  }
  const isAlpha = everyGray && !everyAlpha;
  for (let place = 0; place < rgba.length; place += 4) {
    const value = isAlpha ? rgba[place + 3] : (of(place) * rgba[place + 3]) / 255;
    if (value >= 127.5) pixels[place >> 2] = 1;
  }
  return { width, height, pixels };
}
