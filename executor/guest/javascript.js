// Runs the user's JavaScript: `node javascript.js CODE EVENT RESULT`, three descriptors.
// Writes the same frame as python.py: V + JSON, N, or E + {message, traceback}.
'use strict';
const fs = require('fs');
const Module = require('module');

const [code, event, result] = process.argv.slice(2).map(Number);
const source = fs.readFileSync(code, 'utf8');
const input = fs.readFileSync(event, 'utf8');
fs.closeSync(code);
fs.closeSync(event);
process.argv.splice(1, process.argv.length - 1, '/workspace/main.js');

const write = fs.writeSync.bind(fs);
const parse = JSON.parse;
const stringify = JSON.stringify;
let answered = false;

function frame(kind, payload) {
  if (answered) return;
  answered = true;
  const body = Buffer.from(payload, 'utf8');
  const head = Buffer.alloc(9);
  head.write(kind, 0, 'latin1');
  head.writeBigUInt64BE(BigInt(body.length), 1);
  let data = Buffer.concat([head, body]);
  while (data.length > 0) data = data.subarray(write(result, data));
}

// Only the user's frames: those of this file and of node's loader tell them nothing.
function stackOf(error) {
  if (!(error instanceof Error) || typeof error.stack !== 'string') return '';
  const ours = (line) => line.includes(__filename) || line.includes('(node:internal');
  return error.stack.split('\n').filter((line) => !ours(line)).join('\n');
}

function fail(error) {
  const stack = stackOf(error);
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  process.stderr.write(`${stack || message}\n`);
  frame('E', stringify({ message: message.slice(0, 4096), traceback: stack }));
  process.exit(1);
}

process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);

const main = new Module('/workspace/main.js', null);
main.filename = '/workspace/main.js';
main.paths = Module._nodeModulePaths('/workspace');
const hasHandler = () => typeof main.exports?.handler === 'function';
// A script ends when nothing is left to do, or by process.exit(0), which may come at once.
process.on('exit', (status) => { if (status === 0 && !hasHandler()) frame('N', ''); });
main._compile(source, 'main.js');

if (hasHandler()) {
  Promise.resolve(main.exports.handler(parse(input), {})).then((value) => {
    const json = stringify(value === undefined ? null : value);
    if (json === undefined) throw new TypeError("the handler's return value is not JSON");
    frame('V', json);
    process.exit(0);
  }).catch(fail);
}
