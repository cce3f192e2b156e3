// `serve PORT`: gives every connection its bytes back. `HOST PORT BYTES COUNT`: sends, receives and compares.
const net = require('net');
const crypto = require('crypto');

function one(host, port, bytes) {
  return new Promise((resolve, reject) => {
    const wanted = crypto.randomBytes(bytes);
    const got = [];
    const socket = net.connect(port, host, () => socket.end(wanted));
    socket.on('error', reject);
    socket.on('data', (data) => got.push(data));
    socket.on('end', () => {
      const all = Buffer.concat(got);
      if (all.equals(wanted)) resolve();
      else reject(new Error(`${all.length} bytes came back, not the ${bytes} that were sent`));
    });
  });
}

async function main([first, port, bytes, count]) {
  if (first === 'serve') {
    net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(Number(port));
    return;
  }
  for (let serial = 0; serial < Number(count); serial++) await one(first, Number(port), Number(bytes));
  console.log('same');
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
