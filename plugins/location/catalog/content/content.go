// Package content names what a file holds: by all of it, or, for a large file, by samples of it.
//
// The name is a text METHOD:HEX that says how it was made, so that names of two methods are never taken for one another.
// It promises that equal contents have equal names of a method, on every system and in every version; it leaves to
// others what a sampled name is good for: two files with the same one have the same size and are alike wherever it
// looked, which is not everywhere.
package content

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// The methods.
const (
	Whole   = "sha256"         // SHA-256 of the whole file
	Sampled = "sampled-sha256" // SHA-256 of the size, as 8 bytes, most significant first, then of the samples in order
)

// A file is sampled at samples places of sampleBytes each: the i-th begins at byte i * (size - sampleBytes) / (samples - 1),
// rounded down, so that the first is its head and the last its tail. These numbers are part of what Sampled means: others
// would be another method.
const (
	samples     = 16
	sampleBytes = 64 << 10
)

// LeastWhole is the size up to which a file is never sampled: its samples would be all of it.
const LeastWhole = samples * sampleBytes

// ErrChanged says that the file ended before size: it is another one by now.
var ErrChanged = errors.New("the file changed while it was read")

// Name returns the name of what r holds, which has size bytes: by all of it, if these are at most whole or LeastWhole, or
// else sampled. It calls pace before each piece that it reads, with the bytes of it, at most 64 KiB; an error of pace ends
// it. It blocks on r and on pace.
func Name(r io.ReaderAt, size, whole int64, pace func(bytes int) error) (string, error) {
	if size < 0 {
		return "", fmt.Errorf("a file of %d bytes", size)
	}
	n := namer{from: r, sum: sha256.New(), pace: pace, buffer: make([]byte, min(sampleBytes, size))}
	if size <= max(whole, LeastWhole) {
		for at := int64(0); at < size; at += sampleBytes {
			if err := n.add(at, min(sampleBytes, size-at)); err != nil {
				return "", err
			}
		}
		return n.name(Whole), nil
	}
	n.sum.Write(binary.BigEndian.AppendUint64(nil, uint64(size))) //nolint:errcheck,gosec // a hash takes everything; size is not negative
	for i := range int64(samples) {
		if err := n.add(i*(size-sampleBytes)/(samples-1), sampleBytes); err != nil {
			return "", err
		}
	}
	return n.name(Sampled), nil
}

// Bytes returns how many bytes Name reads of a file of size bytes.
func Bytes(size, whole int64) int64 {
	if size <= max(whole, LeastWhole) {
		return max(0, size)
	}
	return LeastWhole
}

type namer struct {
	from   io.ReaderAt
	sum    hash.Hash
	pace   func(bytes int) error
	buffer []byte
}

// add takes in n bytes from at on.
func (n *namer) add(at, count int64) error {
	piece := n.buffer[:count]
	if err := n.pace(len(piece)); err != nil {
		return err
	}
	if read, err := n.from.ReadAt(piece, at); read < len(piece) {
		if errors.Is(err, io.EOF) {
			return ErrChanged
		}
		return err
	}
	n.sum.Write(piece) //nolint:errcheck // a hash takes everything
	return nil
}

func (n *namer) name(method string) string { return method + ":" + hex.EncodeToString(n.sum.Sum(nil)) }
