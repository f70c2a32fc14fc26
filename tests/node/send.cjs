// Sends a file by tus-js-client and says what happens, one JSON object a line:
// node send.cjs '{"endpoint": URL, "path": FILE, "known": FILE, "chunkSize": BYTES or null, "retryDelays": [MS, ...]}'
// What it knows of unfinished uploads lies in `known`; a later process goes on from there.
const fs = require("node:fs");
const path = require("node:path");
const tus = require("tus-js-client");

const asked = JSON.parse(process.argv[2]);
const say = (words) => fs.writeSync(1, JSON.stringify(words) + "\n");

const upload = new tus.Upload(fs.createReadStream(asked.path), {
  endpoint: asked.endpoint,
  urlStorage: new tus.FileUrlStorage(asked.known),
  chunkSize: asked.chunkSize ?? Number.POSITIVE_INFINITY,
  retryDelays: asked.retryDelays ?? [],
  metadata: { filename: path.basename(asked.path) },
  headers: asked.headers ?? {},
  removeFingerprintOnSuccess: true,
  onAfterResponse: (request, response) =>
    say({ method: request.getMethod(), status: response.getStatus(), from: request.getHeader("Upload-Offset") ?? null }),
  onUploadUrlAvailable: () => say({ url: upload.url }),
  onChunkComplete: (size, sent) => say({ sent }),
  onShouldRetry: (error, attempt) => {
    say({ retry: attempt, status: error.originalResponse?.getStatus() ?? 0 });
    return true;
  },
  onError: (error) => {
    say({ failed: String(error) });
    process.exitCode = 1;
  },
  onSuccess: () => say({ done: upload.url }),
});

upload.findPreviousUploads().then((known) => {
  say({ known: known.length });
  if (known.length > 0) upload.resumeFromPreviousUpload(known[0]);
  upload.start();
});
