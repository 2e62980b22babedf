import { Socket, type SocketConstructorOpts } from "node:net";
import { TLSSocket } from "node:tls";

/** The part of Node's undocumented socket handle that the technique leans on. */
interface Handle {
  reading: boolean;
  readStop(): number;
  useUserBuffer(buffer: Uint8Array): void;
}
interface HandleOwner {
  _handle: Handle | null;
}

/** Takes the octets of a read; they are the reader's again when it returns. */
interface Receiver {
  receive(bytes: Buffer, start: number, end: number): void;
}

const SIZE = 65_536;
const buffer = Buffer.allocUnsafeSlow(SIZE);

/**
 * Reads the socket into one buffer that all connections of the process share, instead of one that Node makes per read:
 * a third of the cost of a call where each comes in its own segment. `net.Socket` offers that (`onread`) for sockets it
 * connects, not for accepted ones, so the accepted socket's handle is wrapped once more. That step is undocumented:
 * returns false, having done nothing, where anything it needs is not as expected; the caller then reads 'data'.
 *
 * The old socket lives on for its owner: it closes when the new one does, and destroying it destroys the new one.
 */
export function lendReads(socket: Socket, serve: (lent: Socket) => Receiver, head: Buffer | undefined): boolean {
  if (!canLend(socket)) return false;
  socket.pause();
  // Not inside the very read that brought the head: Node still has to finish with the handle there.
  process.nextTick(() => {
    const owner = socket as unknown as HandleOwner;
    const handle = owner._handle;
    if (handle === null || socket.destroyed) return;
    handle.readStop();
    handle.reading = false;
    const rest = socket.read() as Buffer | null;
    owner._handle = null;
    let connection: Receiver | undefined;
    const onread = {
      buffer,
      callback(octets: number): boolean {
        connection?.receive(buffer, 0, octets);
        return true;
      },
    };
    const options = { handle, onread, allowHalfOpen: false };
    const lent = new Socket(options as unknown as SocketConstructorOpts);
    connection = serve(lent);
    lent.once("close", () => socket.destroy());
    socket.once("close", () => lent.destroy());
    for (const bytes of [head, rest]) if (bytes) connection.receive(bytes, 0, bytes.length);
    lent.resume();
  });
  return true;
}

/** On Windows reads are started ahead of time, each needs a buffer of its own. */
function canLend(socket: Socket): boolean {
  if (
    process.platform === "win32" ||
    socket instanceof TLSSocket ||
    Object.getPrototypeOf(socket) !== Socket.prototype
  ) {
    return false;
  }
  const handle = (socket as unknown as Partial<HandleOwner>)._handle;
  return (
    handle !== null &&
    handle !== undefined &&
    typeof handle.reading === "boolean" &&
    typeof handle.readStop === "function" &&
    typeof handle.useUserBuffer === "function"
  );
}
