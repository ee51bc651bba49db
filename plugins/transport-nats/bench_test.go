//go:build unix

package main

import (
	"io"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// BenchmarkTransport carries bytes between two plugin processes, over TCP and through a nats-server process in turn, all
// on this machine: what the way through a server costs.
func BenchmarkTransport(b *testing.B) {
	s := newServerProcess(b)
	for _, kind := range []struct {
		name, path, address string
		config              []byte
	}{
		{"tcp", rpctest.Build(b, "../transport-tcp"), "127.0.0.1:0", []byte("{}")},
		{"nats", rpctest.Self(b), "alice", s.config()},
	} {
		b.Run(kind.name, func(b *testing.B) {
			start := func() sdk.Transport {
				t := rpctest.Start(b, kind.path).Client().Transport(kind.name)
				if err := t.(sdk.Configurable).Configure(b.Context(), kind.config); err != nil {
					b.Fatal(err)
				}
				return t
			}
			l, err := start().Listen(b.Context(), kind.address, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			out, in := connect(b, start(), l)
			b.Run("stream", func(b *testing.B) { stream64K(b, out, in) })
			b.Run("round trip of 200 bytes", func(b *testing.B) { echo(b, out, in) })
		})
	}
}

func stream64K(b *testing.B, out io.Writer, in io.Reader) {
	piece := make([]byte, 64<<10)
	b.SetBytes(int64(len(piece)))
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, in, int64(b.N)*int64(len(piece)))
		done <- err
	}()
	for range b.N {
		if _, err := out.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func echo(b *testing.B, out, in io.ReadWriter) {
	rounds := b.N
	word, back := make([]byte, 200), make(chan error, 1)
	go func() {
		heard := make([]byte, len(word))
		for range rounds {
			if _, err := io.ReadFull(in, heard); err != nil {
				back <- err
				return
			}
			if _, err := in.Write(heard); err != nil {
				back <- err
				return
			}
		}
		back <- nil
	}()
	for range rounds {
		if _, err := out.Write(word); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(out, word); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-back; err != nil {
		b.Fatal(err)
	}
}
