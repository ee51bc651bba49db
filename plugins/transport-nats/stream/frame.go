package stream

import (
	"encoding/binary"
)

// A frame is one message:
//
//	kind    1 byte
//	number  8 bytes, big endian: 0, 1, 2, ... in each direction, whatever the kind
//	body    data: the bytes; credit: 8 bytes, big endian, how much data may be sent in all since the beginning;
//	        beat: none; close: none; reset: the reason, for people
//
// Data is counted by its cost: a body of n bytes costs n + Overhead, so that many small frames are bounded too.
const (
	kindData   = 16 + iota // kinds below 16 are for who sets the connection up
	kindCredit             // the reader has room again
	kindBeat               // nothing else was sent for a while
	kindClose              // nothing follows: the sender has closed
	kindReset              // nothing follows: the sender has given up
)

const (
	// Overhead is what a frame of data costs beyond its bytes.
	Overhead = 256
	// MinWindow is the least window that works.
	MinWindow = 4096
	// MaxWindow is the greatest window that a peer is believed.
	MaxWindow = 64 << 20
	// MinMessage is the least message, in bytes, that a wire must carry.
	MinMessage = 512

	headerBytes    = 1 + 8
	maxFrame       = headerBytes + 64<<10 // what a chunk between host and plugin fits in
	maxReasonBytes = MinMessage - headerBytes
)

func cost(n int) uint64 { return uint64(n) + Overhead } //nolint:gosec // a length

// IsFrame reports whether a message is a frame rather than one of setting up.
func IsFrame(message []byte) bool { return len(message) > 0 && message[0] >= kindData }

func appendFrame(dst []byte, kind byte, number uint64, body []byte) []byte {
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint64(dst, number)
	return append(dst, body...)
}

// parseFrame returns the parts of a message; body aliases it.
func parseFrame(message []byte) (kind byte, number uint64, body []byte, ok bool) {
	if len(message) < headerBytes {
		return 0, 0, nil, false
	}
	return message[0], binary.BigEndian.Uint64(message[1:]), message[headerBytes:], true
}
