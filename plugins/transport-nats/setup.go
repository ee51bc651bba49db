package main

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/starling-sync/starling/plugins/transport-nats/stream"
	"github.com/starling-sync/starling/sdk"
)

// Before frames (package stream) two ends find one another. The dialler subscribes on a subject of its own, and sends
// to SUBJECT.dial.NAME, where the listener subscribes:
//
//	dialler                                                listener
//	   | dial    (to SUBJECT.dial.NAME, reply: dialler's)    |
//	   |---------------------------------------------------->|  subscribes on a subject for this connection
//	   |<----------------------------------------------------| accept  (to dialler's, reply: the new one)
//	   | confirm (to the new one)                            |
//	   |---------------------------------------------------->|  the connection is accepted
//	   |<----------------------------------------------------| ready
//
// The dialler sends dial and confirm again until they are answered, since a subscription takes its time to be known in
// a cluster; once both have been, messages pass both ways. Every message names its sender's subject as its reply, so
// that a server that knows nobody who takes it says so.
//
//	dial, accept   kind, version (1 byte), window (4 bytes, big endian), greatest message (4), name of the sender (UTF-8)
//	confirm, ready kind
//	refuse         kind, reason (UTF-8)
const (
	kindNobody = iota // no message: what was sent has reached nobody
	kindDial
	kindAccept
	kindConfirm
	kindReady
	kindRefuse
)

const (
	protocolVersion = 1

	subjectBytes = 26 // of the random part of a subject: 128 bits
	greetBytes   = 1 + 1 + 4 + 4
	maxNameBytes = 128
)

// greeting is what dial and accept carry.
type greeting struct {
	version    byte
	window     int
	maxMessage int
	name       string // for people; the host finds out who it is
}

func (g greeting) encode(kind byte) []byte {
	message := []byte{kind, g.version}
	message = binary.BigEndian.AppendUint32(message, uint32(g.window))                          //nolint:gosec // at most MaxWindow
	message = binary.BigEndian.AppendUint32(message, uint32(min(g.maxMessage, math.MaxUint32))) //nolint:gosec // not negative
	return append(message, g.name...)
}

// parseGreeting reads dial and accept. CodeUnsupported: this version does not understand the sender.
func parseGreeting(message []byte) (greeting, error) {
	if len(message) < 2 || message[1] != protocolVersion {
		version := 0
		if len(message) > 1 {
			version = int(message[1])
		}
		return greeting{}, sdk.Errorf(sdk.CodeUnsupported, "the other device's NATS transport speaks version %d, this one %d; update the older", version, protocolVersion)
	}
	if len(message) < greetBytes || len(message) > greetBytes+maxNameBytes {
		return greeting{}, sdk.Errorf(sdk.CodeInvalid, "a greeting of %d bytes", len(message))
	}
	g := greeting{
		version: message[1], window: int(binary.BigEndian.Uint32(message[2:])), maxMessage: int(binary.BigEndian.Uint32(message[6:])),
		name: plain(string(message[greetBytes:])),
	}
	if g.window < stream.MinWindow || g.window > stream.MaxWindow || g.maxMessage < stream.MinMessage {
		return greeting{}, sdk.Errorf(sdk.CodeInvalid, "a greeting with window %d and messages of %d bytes", g.window, g.maxMessage)
	}
	return g, nil
}

// plain makes text of another device fit for a log and a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}
