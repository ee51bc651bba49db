// Package rpc carries the contract of package sdk across the border between a host and a plugin process.
//
// A plugin's main calls Serve. A host calls Start, and gets the plugin's models, sources and transport back as the
// same interfaces, so that neither side sees the border: batches cross untouched, errors keep their codes, a blocked
// Write stays blocked, and cancelling a call cancels it in the other process. A batch is the exception: its caller
// returns at once, while its handler goes on until it is done; its context ends with the model's stream, not the call.
//
// It promises that a plugin ends within a second of its host, that a panic in a handler costs that call and no more,
// that a batch is answered within Command.CallTimeout or fails, and that a message over MaxMessageBytes is refused with
// sdk.CodeTooLarge before it harms its neighbours. It leaves to its callers when to start, restart and stop a process
// (host/supervisor), and to call Health with a deadline.
package rpc

import (
	"context"
	"errors"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// MaxMessageBytes is the greatest message that crosses the border, either way. Batches should stay near 1 MiB.
const MaxMessageBytes = 64 << 20

const (
	protocolVersion = 1 // of the border; raised when an old plugin could not be understood

	chunkBytes   = 64 << 10  // of one connection's bytes in a message
	partBytes    = 1 << 20   // of a long answer in a message
	streamWindow = 512 << 10 // bytes a sender may be ahead of the reader, a stream: bounds memory per connection
	connWindow   = 4 << 20   // the same for the whole process
	socketBuffer = 128 << 10

	applyCredits    = 8  // batches in flight, a model
	sourceCredits   = 8  // commits and finds in flight, a source
	acceptedWaiting = 64 // accepted connections that the host has not taken yet, a listener
)

// handshake is how host and plugin recognize one another before anything else.
func handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		ProtocolVersion:  protocolVersion,
		MagicCookieKey:   "STARLING_PLUGIN",
		MagicCookieValue: "6f1d3c1a-8d0e-4c55-9a63-2b7c5f0e4d19",
	}
}

// pluginName is the one entry of the go-plugin plugin set: a process is one plugin, whatever it serves.
const pluginName = "starling"

// border is both ends of that entry.
type border struct {
	plugin.NetRPCUnsupportedPlugin
	server *server // plugin side only
}

// GRPCServer registers the plugin's services.
func (b *border) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if b.server == nil {
		return errors.New("nothing to serve")
	}
	b.server.register(s)
	return nil
}

// GRPCClient returns the host's *Client.
func (b *border) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return newClient(conn), nil
}

func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes), grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(socketBuffer), grpc.WriteBufferSize(socketBuffer),
	}
}

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(socketBuffer), grpc.WithWriteBufferSize(socketBuffer),
	}
}
