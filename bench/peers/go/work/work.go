// Package work is what each Go peer does for a token: HMAC-SHA256 under one key, and a look-up among 100,000.
package work

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unsafe"

	"google.golang.org/grpc"
)

const others = 100_000

// Table maps a token's digest to what is answered for it.
type Table[T any] struct {
	key     []byte
	entries map[[sha256.Size]byte]T
}

// NewTable makes a table with `others` random tokens and the given one.
func NewTable[T any](token string, value T) *Table[T] {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		panic(err)
	}
	table := &Table[T]{key: key, entries: make(map[[sha256.Size]byte]T, others)}
	var digest [sha256.Size]byte
	for range others {
		if _, err := rand.Read(digest[:]); err != nil {
			panic(err)
		}
		table.entries[digest] = value
	}
	table.entries[table.digest(token)] = value
	return table
}

// Find looks a token string up.
func (t *Table[T]) Find(token string) (T, bool) {
	value, ok := t.entries[t.digest(token)]
	return value, ok
}

func (t *Table[T]) digest(token string) (sum [sha256.Size]byte) {
	mac := hmac.New(sha256.New, t.key)
	mac.Write(unsafe.Slice(unsafe.StringData(token), len(token)))
	mac.Sum(sum[:0])
	return sum
}

// Serve answers on PEER_BIND (host:port or unix:/path) until SIGTERM, and prints "listening ADDRESS" first.
func Serve(register func(*grpc.Server)) {
	network, address := "tcp", os.Getenv("PEER_BIND")
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer()
	register(server)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		server.Stop()
	}()
	os.Stdout.WriteString("listening " + listener.Addr().String() + "\n")
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
}
